// The live page: follows /ws/events and keeps the served page up to date. The words are those of
// jobquest/web/pages/live.py.

import {
  announce, ask, byId, eventUrl, jsonText, many, number, part, setOrRemove, setText, showTime,
  shown, span, userUrl, visible,
} from "./common.js";

const RENDER_MS = 200; // between two changes of the list
const RENDER_SHARE = 4; // a change that took 100 ms is followed by 400 ms of rest
const CHECK_MS = 5_000;
const SILENCE_MS = 60_000; // heartbeats come every 25 s
const STEADY_MS = 5_000; // a connection that lived this long was a good one
const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 30_000;
const OFFLINE_AFTER_TRIES = 5;
const RELOAD_MS = 10_000; // the page reloads itself at most this often

const page = document.getElementById("dashboard");
const words = JSON.parse(page.dataset.words);
const limits = JSON.parse(page.dataset.limits);

// --- words ---

function summary(data) {
  const pairs = Object.entries(data).map(
    ([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`,
  );
  const characters = [...visible(pairs.join(" · ") || "no data")];
  if (characters.length <= limits.summary) return characters.join("");
  return `${characters.slice(0, limits.summary - 1).join("")}…`;
}

function lagWords({ messages, seconds }) {
  if (messages === null) return "not known";
  if (messages === 0) return "caught up";
  const behind = many(messages, "message");
  return seconds === null ? `${behind} behind` : `${behind}, ${span(seconds)} behind`;
}

function outboxWords(outbox) {
  if (!outbox?.events) return "empty";
  return `${many(outbox.events, "event")}, the oldest ${span(outbox.seconds)} old`;
}

// --- the list ---

const list = {
  table: byId("events"),
  body: byId("events").tBodies[0],
  hold: byId("hold"),
  rows: new Map(), // event id → its row
  waiting: new Map(), // event id → item, oldest change first
  more: page.dataset.more === "true", // older events exist that are not listed
  held: false,
  dropped: 0, // of the waiting ones, as the list will not hold that many
  timer: null,

  start() {
    for (const row of this.body.rows) this.rows.set(row.dataset.id, row);
    this.hold.hidden = false;
    this.hold.addEventListener("click", () => this.toggleHold());
    document.addEventListener("visibilitychange", () => this.schedule());
  },

  take(items) {
    for (const item of items) {
      this.waiting.delete(item.event.id);
      this.waiting.set(item.event.id, item);
    }
    for (const id of this.waiting.keys()) {
      if (this.waiting.size <= limits.rows) break;
      this.waiting.delete(id);
      this.dropped += 1;
    }
    this.schedule();
  },

  toggleHold() {
    this.held = !this.held;
    this.hold.setAttribute("aria-pressed", String(this.held));
    announce(this.held ? "The list is held: new events wait." : "The list goes on.");
    this.schedule();
  },

  schedule(wait = RENDER_MS) {
    if (this.held) this.note();
    if (this.timer || this.held || document.hidden || !this.waiting.size) return;
    this.timer = setTimeout(() => requestAnimationFrame(() => this.render()), wait);
  },

  render() {
    this.timer = null;
    if (this.held || document.hidden) return;
    const began = performance.now();
    const focused = document.activeElement; // loses the focus where its row moves
    const fresh = document.createDocumentFragment();
    for (const item of this.waiting.values()) fresh.prepend(this.row(item));
    this.body.prepend(fresh);
    if (focused !== document.activeElement) focused.focus({ preventScroll: true });
    this.more ||= this.dropped > 0;
    this.waiting.clear();
    this.dropped = 0;
    this.trim();
    this.table.hidden = false;
    byId("empty").hidden = true;
    this.note();
    // The layout's time counts too, and is known at the next frame.
    this.timer = requestAnimationFrame(() => {
      this.timer = null;
      this.schedule(Math.max(RENDER_MS, RENDER_SHARE * (performance.now() - began)));
    });
  },

  // An event that comes again keeps its row (and whether it is open), which moves to the top.
  row(item) {
    const id = item.event.id;
    const row = this.rows.get(id) ?? byId("row").content.firstElementChild.cloneNode(true);
    this.rows.set(id, row);
    const event = shown(item.event);
    row.dataset.id = id;
    row.dataset.outcome = item.outcome;
    const texts = {
      type: visible(event.type ?? "unreadable"),
      "user-id": visible(event.userId ?? "unknown"),
      outcome: item.outcome,
      topic: visible(item.topic),
      place: `partition ${item.partition}, offset ${item.offset}`,
      summary: summary(event.data),
      document: jsonText(event),
    };
    if (!event.timestamp) Object.assign(texts, { time: "unknown", date: "" });
    for (const [name, text] of Object.entries(texts)) setText(part(row, name), text);
    part(row, "outcome").dataset.word = item.outcome;
    part(row, "type").href = eventUrl(id);
    setOrRemove(part(row, "user"), "href", event.userId ? userUrl(event.userId) : null);
    setOrRemove(row.querySelector("time"), "datetime", event.timestamp);
    showTime(row.querySelector("time"));
    return row;
  },

  trim() {
    while (this.body.rows.length > limits.rows) {
      const last = this.body.lastElementChild;
      this.rows.delete(last.dataset.id);
      last.remove();
      this.more = true;
    }
  },

  note() {
    const rows = this.rows.size;
    let text = rows ? `${many(rows, "event")}.` : "";
    if (this.more) text = `The latest ${rows}; older ones are not listed.`;
    if (this.more && rows === limits.rows) {
      text = `The latest ${rows}, the most that this page keeps; older ones are not listed.`;
    }
    const waiting = this.waiting.size + this.dropped;
    if (this.held && waiting) text += ` ${many(waiting, "newer change")} waiting.`;
    setText(byId("list-note"), text.trim());
  },
};

// --- the consumer: its state and its switch ---

const consumer = {
  strip: byId("strip"),
  buttons: [...document.querySelectorAll("[data-action]")],
  status: null,
  pending: null, // the action that is being answered

  start() {
    this.status = { state: byId("state").dataset.state };
    for (const button of this.buttons) {
      button.disabled = false;
      button.addEventListener("click", () => this.switch(button));
    }
    this.showButtons();
  },

  show(status) {
    const word = status.state.charAt(0).toUpperCase() + status.state.slice(1);
    const [look, meaning] = words.states[status.state] ?? ["quiet", ""];
    const state = byId("state");
    state.dataset.look = look;
    setText(part(state, "word"), word);
    setText(part(state, "meaning"), meaning);
    setText(part(state, "reason"), status.reason ?? "");
    part(state, "reason").hidden = !status.reason;
    setText(byId("lag"), lagWords(status.lag));
    setText(byId("mode"), words.modes[status.mode] ?? status.mode);
    setText(byId("group"), status.groupId);
    setText(byId("outbox"), outboxWords(status.outbox));
    for (const [id, many] of [["retrying", status.retrying], ["dead-letters", status.deadLetters]]) {
      byId(id).hidden = many === undefined;
      setText(byId(id).lastElementChild, number(many ?? 0));
    }
    if (this.status.state !== status.state) {
      announce(`Consumer: ${word}. ${status.reason ?? meaning}`);
    }
    this.status = status;
    this.showButtons();
  },

  // A button that can't be used now stays focusable: the keyboard's place is not lost.
  showButtons() {
    const { state } = this.status;
    const useless = {
      start: ["running", "idle", "starting"].includes(state),
      stop: state === "stopped",
    };
    for (const button of this.buttons) {
      const { action } = button.dataset;
      button.setAttribute("aria-disabled", String(this.pending !== null || useless[action]));
      const doing = { start: "Starting…", stop: "Stopping…" }[action];
      setText(button, this.pending === action ? doing : { start: "Start", stop: "Stop" }[action]);
    }
  },

  async switch(button) {
    if (button.getAttribute("aria-disabled") === "true") return;
    this.pending = button.dataset.action;
    this.showButtons();
    this.complain("");
    const { ok, data, message } = await ask("POST", page.dataset.switch, { action: this.pending });
    // The live status is the newest about the lag, and says when that changes.
    const lag = connection.isLive && this.status.lag;
    if (data?.state) this.show(lag ? { ...data, lag } : data);
    if (!ok) this.complain(`Could not ${this.pending} the consumer. ${message}`);
    this.pending = null;
    this.showButtons();
  },

  complain(text) {
    setText(byId("switch-problem"), text);
    byId("switch-problem").hidden = !text;
  },

  // Without a live connection the strip shows what was, and says so.
  showAge(isLive) {
    const stale = part(byId("state"), "stale");
    if (!isLive && stale.hidden) {
      const clock = new Date().toISOString().slice(11, 19);
      setText(stale, `Last known at ${clock} UTC: the live connection is down.`);
    }
    stale.hidden = isLive;
    this.strip.classList.toggle("old", !isLive);
  },
};

// --- the connection ---

const connection = {
  socket: null,
  epoch: page.dataset.epoch,
  since: Number(page.dataset.since),
  missed: 0,
  tries: 0,
  isLive: false,
  opened: 0,
  lastFrame: 0,
  next: 0, // when to try again
  timer: null,

  start() {
    setInterval(() => this.check(), CHECK_MS);
    window.addEventListener("online", () => this.retry());
    document.addEventListener("visibilitychange", () => this.retry());
    this.open();
  },

  open() {
    this.timer = null;
    this.say(this.tries ? "reconnecting" : "connecting", "waiting");
    const address = new URL(page.dataset.socket, location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.searchParams.set("since", String(this.since));
    const socket = new WebSocket(address);
    this.socket = socket;
    this.opened = this.lastFrame = Date.now();
    socket.addEventListener("message", (message) => {
      if (socket === this.socket) this.receive(JSON.parse(message.data));
    });
    socket.addEventListener("close", () => {
      if (socket === this.socket) this.lost();
    });
  },

  receive(frame) {
    this.lastFrame = Date.now();
    const receivers = {
      hello: () => this.hello(frame),
      events: () => this.events(frame.items),
      status: () => consumer.show(frame),
      gap: () => this.gap(frame),
    };
    receivers[frame.kind]?.(); // a heartbeat, or what a newer service adds: it lives
  },

  hello({ epoch, status }) {
    this.epoch ||= epoch; // a page that was served without one could not read the events
    if (epoch !== this.epoch) {
      this.say("the service's data is new, reloading", "waiting");
      setTimeout(() => location.reload(), Math.max(0, RELOAD_MS - performance.now()));
      this.forget();
      return;
    }
    if (this.tries) announce("Live updates are back.");
    this.isLive = true;
    this.say("live", "live");
    consumer.showAge(true);
    if (status) consumer.show(status);
  },

  events(items) {
    // What was served, and what is replayed twice, is known by its number.
    const fresh = items.filter((item) => item.seq > this.since);
    if (!fresh.length) return;
    this.since = fresh.at(-1).seq;
    byId("problem")?.remove();
    list.take(fresh);
  },

  gap({ from, to }) {
    this.missed += to - from + 1;
    this.since = Math.max(this.since, to);
    const text = `${many(this.missed, "event")} not shown: more happened than could be sent again.`;
    setText(part(byId("gap"), "text"), text);
    byId("gap").hidden = false;
    announce(text);
  },

  lost() {
    const wasLive = this.isLive;
    const wasSteady = wasLive && Date.now() - this.opened > STEADY_MS;
    this.forget();
    this.isLive = false;
    this.tries = wasSteady ? 1 : this.tries + 1;
    const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** (this.tries - 1));
    // Jitter, so that a service that comes back is not met by every page at once.
    this.next = Date.now() + longest * (0.5 + Math.random() / 2);
    if (wasLive) announce("Live updates are lost; reconnecting.");
    consumer.showAge(false);
    this.count();
  },

  // Counts down to the next try.
  count() {
    const left = this.next - Date.now();
    if (left <= 0) {
      this.open();
      return;
    }
    const seconds = Math.ceil(left / 1_000);
    if (this.tries > OFFLINE_AFTER_TRIES) this.say(`offline, next try in ${seconds} s`, "offline");
    else this.say(`reconnecting in ${seconds} s`, "waiting");
    this.timer = setTimeout(() => this.count(), left - (seconds - 1) * 1_000);
  },

  // The operator is back: don't let them wait.
  retry() {
    if (document.hidden) return;
    if (this.timer) {
      clearTimeout(this.timer);
      this.open();
    } else {
      this.check();
    }
  },

  check() {
    if (this.socket && Date.now() - this.lastFrame > SILENCE_MS) this.lost();
  },

  // What the old socket still says is not listened to any more.
  forget() {
    const old = this.socket;
    this.socket = null;
    old?.close();
  },

  say(text, look) {
    byId("live").dataset.live = look;
    setText(part(byId("live"), "word"), text);
  },
};

list.start();
consumer.start();
connection.start();
