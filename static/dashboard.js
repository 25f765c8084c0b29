// Keeps the dashboard fresh: follows /ws/events from the last change that the server rendered.
// Everything that comes from events is set as text, never as markup.
"use strict";

(() => {
  const MAX_ROWS = 500;
  const PAINT_MS = 200;
  const SILENCE_MS = 60_000;
  const LONGEST_WAIT_MS = 15_000;
  const MASK = "•••";

  const byId = (id) => document.getElementById(id);
  const list = byId("events");
  const template = byId("row");
  const personal = new Set(list.dataset.personal.split(" "));
  const buttons = document.querySelectorAll("#actions button");

  let seq = Number(list.dataset.seq);
  let epoch = list.dataset.epoch;
  let attempts = 0;
  let silence = 0;
  let waiting = [];
  let painting = 0;
  let busy = false;

  // --- rows ---

  const mask = (data) =>
    Object.fromEntries(Object.entries(data).map(([k, v]) => [k, personal.has(k) ? MASK : v]));

  const short = (value) => (typeof value === "string" ? value : JSON.stringify(value));

  const summary = (data) =>
    Object.entries(data).slice(0, 3).map(([k, v]) => `${k}: ${short(v)}`).join(" · ");

  function row(item) {
    const event = { ...item.event, data: mask(item.event.data) };
    const made = template.content.firstElementChild.cloneNode(true);
    const slot = (name) => made.querySelector(`[data-slot="${name}"]`);
    made.dataset.id = event.id;
    made.dataset.seq = item.seq;
    if (event.timestamp) {
      slot("time").dateTime = event.timestamp;
      slot("time").textContent = event.timestamp.slice(0, -1).replace("T", " ");
    }
    slot("type").textContent = event.type ?? "unreadable";
    slot("user").textContent = event.userId ?? "";
    slot("data").textContent = summary(event.data);
    slot("outcome").textContent = item.outcome;
    slot("outcome").dataset.outcome = item.outcome;
    slot("place").textContent = `${item.topic} · ${item.partition} · ${item.offset}`;
    slot("json").textContent = JSON.stringify(event, null, 2);
    return made;
  }

  // New rows are put in together, a few times a second: one layout for a burst, not one an event.
  function take(items) {
    waiting.push(...items);
    if (waiting.length > MAX_ROWS) waiting = waiting.slice(-MAX_ROWS);
    if (!painting) painting = setTimeout(paint, PAINT_MS);
  }

  function paint() {
    painting = 0;
    const latest = new Map(waiting.map((item) => [item.event.id, item]));
    waiting = [];
    const focused = document.activeElement?.closest(".event")?.dataset.id;
    for (const old of [...list.children]) if (latest.has(old.dataset.id)) old.remove();
    const fresh = document.createDocumentFragment();
    for (const item of [...latest.values()].sort((a, b) => b.seq - a.seq)) fresh.append(row(item));
    list.prepend(fresh);
    while (list.children.length > MAX_ROWS) list.lastElementChild.remove();
    if (focused && latest.has(focused)) {
      [...list.children].find((one) => one.dataset.id === focused)?.querySelector("summary").focus();
    }
    byId("empty").hidden = list.children.length > 0;
    const count = list.children.length;
    const full = count === MAX_ROWS ? " Older ones are left out here." : "";
    byId("bound").textContent = `The last ${count}, newest first. Times in UTC.${full}`;
  }

  // --- the consumer's state ---

  function lag({ messages, seconds }) {
    if (messages === null) return "unknown";
    if (messages === 0) return "caught up";
    const noun = messages === 1 ? "event" : "events";
    return `${messages.toLocaleString("en")} ${noun}, ${seconds.toFixed(1)} s behind`;
  }

  function show(status) {
    if (!status) return;
    const state = byId("state");
    if (state.textContent !== status.state) state.textContent = status.state;
    state.dataset.state = status.state;
    byId("lag").textContent = lag(status.lag);
    byId("dead").textContent = status.deadLetters ?? "unknown";
    byId("reason").textContent = status.reason ?? "";
    byId("reason").hidden = !status.reason;
    enable();
  }

  function enable() {
    const stopped = byId("state").dataset.state === "stopped";
    for (const button of buttons) {
      button.disabled = busy || (button.dataset.action === "start") !== stopped;
    }
  }

  async function act(action) {
    busy = true;
    enable();
    byId("problem").hidden = true;
    try {
      const answer = await fetch("/api/kafka/status", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ action }),
      });
      const body = await answer.json();
      show(body.data);
      if (!answer.ok) complain(body.message);
    } catch {
      complain("The service does not answer; nothing was changed.");
    } finally {
      busy = false;
      enable();
    }
  }

  function complain(line) {
    byId("problem").textContent = line;
    byId("problem").hidden = false;
  }

  // --- the connection ---

  function say(connection, words) {
    byId("connection").dataset.connection = connection;
    byId("connection").textContent = words;
  }

  function connect() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/ws/events?since=${seq}`);
    const listen = () => {
      clearTimeout(silence);
      silence = setTimeout(() => socket.close(), SILENCE_MS);
    };
    socket.onopen = listen;
    socket.onmessage = ({ data }) => {
      listen();
      receive(JSON.parse(data));
    };
    socket.onclose = () => {
      clearTimeout(silence);
      const wait = Math.min(LONGEST_WAIT_MS, 500 * 2 ** attempts++) * (0.5 + Math.random() / 2);
      say("lost", `connection lost, trying again in ${Math.max(1, Math.round(wait / 1000))} s`);
      setTimeout(connect, wait);
    };
  }

  function receive(message) {
    if (message.kind === "hello") {
      if (epoch && message.epoch !== epoch) return location.reload();
      epoch = message.epoch;
      attempts = 0;
      say("live", "live");
      show(message.status);
    } else if (message.kind === "events") {
      seq = Math.max(seq, message.items.at(-1).seq);
      take(message.items);
    } else if (message.kind === "status") {
      show(message);
    } else if (message.kind === "gap") {
      byId("gap").textContent =
        `Changes ${message.from} to ${message.to} came while this page was away and are not shown; reload to see the latest.`;
      byId("gap").hidden = false;
    }
  }

  for (const button of buttons) button.addEventListener("click", () => act(button.dataset.action));
  byId("actions").hidden = false;
  enable();
  say("none", "connecting");
  connect();
})();
