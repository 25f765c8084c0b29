// The live page: the consumer's state, its Start and Stop buttons and its last hour. Connects the
// list with the connection. The words are the same as in jobquest/web/pages/live.py.

import { drawBars } from "./chart.js";
import {
  ask, byId, element, many, now, number, part, setText, span, timeElement,
} from "./common.js";
import { connection } from "./live_connection.js";
import { list } from "./live_list.js";
import { hearElsewhere, lagWords, onStatus, states, tellStatus } from "./now.js";

const HOUR_MS = 10_000; // between two updates of the last hour
const MINUTE_MS = 60_000;
const CHART_HEIGHT = 132; // px

const page = byId("dashboard");
const words = JSON.parse(page.dataset.words);
const limits = JSON.parse(page.dataset.limits);

// --- words ---

function rateWords(rate) {
  if (rate === null) return "not known";
  const tenths = Math.floor(rate * 10 + 0.5);
  return rate < 10 && tenths % 10 ? (tenths / 10).toFixed(1) : number(Math.floor(rate + 0.5));
}

function caughtUpWords({ caughtUpIn }) {
  if (caughtUpIn === null) return "";
  const seconds = Math.ceil(caughtUpIn);
  return `caught up in about ${seconds < 60 ? `${seconds} s` : span(seconds)}`;
}

function outboxWords(outbox) {
  if (!outbox?.events) return "empty";
  return `${many(outbox.events, "event")}, the oldest ${span(outbox.seconds)} old`;
}

// --- the consumer: its state, start and stop ---

const consumer = {
  strip: byId("strip"),
  buttons: [...document.querySelectorAll("[data-action]")],
  status: null,
  pending: null, // the action that waits for its answer

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
    const [look, meaning] = states[status.state] ?? ["quiet", ""];
    const state = byId("state");
    state.dataset.look = look;
    setText(part(state, "word"), word);
    setText(part(state, "meaning"), meaning);
    this.showFacts(status);
    if (this.status.state !== status.state) this.complain("");
    this.status = status;
    this.showButtons();
  },

  showFacts(status) {
    setText(byId("taken"), rateWords(status.rate.taken));
    setText(byId("processed"), rateWords(status.rate.processed));
    setText(byId("lag"), lagWords(status.lag));
    setText(byId("caught-up"), caughtUpWords(status.lag));
    setText(byId("mode"), words.modes[status.mode] ?? status.mode);
    setText(byId("group"), status.groupId);
    setText(byId("outbox"), outboxWords(status.outbox));
    const failures = { retrying: status.retrying, "dead-letters": status.deadLetters };
    for (const [id, count] of Object.entries(failures)) {
      byId(id).hidden = count === undefined;
      byId(id).classList.toggle("failing", count > 0);
      setText(part(byId(id), "count"), number(count ?? 0));
    }
  },

  // A button that can't be used now keeps the focus, so that keyboard users keep their place.
  showButtons() {
    const { state } = this.status;
    const useless = {
      start: ["running", "idle", "degraded", "starting"].includes(state),
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
    // The live status has the newest lag and sends its changes.
    const lag = connection.isLive && this.status.lag;
    if (data?.state) tellStatus(lag ? { ...data, lag } : data);
    // The strip shows the current state: a sentence about an old state would contradict it.
    const why = data?.state ? "This takes longer than expected; see the state above." : message;
    if (!ok) this.complain(`Could not ${this.pending} the consumer. ${why}`);
    this.pending = null;
    this.showButtons();
  },

  complain(text) {
    setText(byId("switch-problem"), text);
    byId("switch-problem").hidden = !text;
  },

  // Without live updates, the strip shows the last known state and says so.
  showAge(isFresh) {
    const stale = part(byId("state"), "stale");
    if (!isFresh && stale.hidden) {
      const clock = new Date(now()).toISOString().slice(11, 19);
      setText(stale, `Last known at ${clock} UTC: the live connection is down.`);
    }
    stale.hidden = isFresh;
    this.strip.classList.toggle("old", !isFresh);
  },
};

// --- its last hour ---

const hour = {
  table: byId("minutes"),
  show: null, // draws new data after the first drawing

  start() {
    this.refresh();
    setInterval(() => this.refresh(), HOUR_MS);
    document.addEventListener("visibilitychange", () => this.refresh());
  },

  async refresh() {
    if (document.hidden) return;
    const { ok, data } = await ask("GET", page.dataset.minutes);
    if (!ok) return; // the connection shows what is wrong
    this.list(data.minutes);
    const bars = this.bars(data.minutes);
    if (this.show) {
      this.show(bars);
      return;
    }
    const series = [
      { label: "Processed", tone: "--accent" },
      { label: "Failed tries", tone: "--alarm" },
    ];
    this.show = drawBars(byId("chart"), series, bars, MINUTE_MS / 1_000, CHART_HEIGHT);
  },

  // Every minute of the hour; minutes without events are absent from `minutes`.
  bars(minutes) {
    const known = new Map(minutes.map((minute) => [Date.parse(minute.minuteAt), minute]));
    const last = Math.max(Math.floor(now() / MINUTE_MS) * MINUTE_MS, ...known.keys());
    const starts = Array.from(
      { length: limits.minutes },
      (_, index) => last - (limits.minutes - 1 - index) * MINUTE_MS,
    );
    return [
      starts.map((start) => start / 1_000),
      starts.map((start) => known.get(start)?.processed ?? 0),
      starts.map((start) => (known.get(start)?.retrying ?? 0) + (known.get(start)?.dead ?? 0)),
    ];
  },

  list(minutes) {
    const rows = minutes.map(({ minuteAt, processed, retrying, dead }) => {
      const cells = [processed, retrying + dead, dead].map(
        (count) => element("td", { class: "number" }, number(count)),
      );
      return element("tr", {}, element("td", {}, timeElement(minuteAt)), ...cells);
    });
    this.table.tBodies[0].replaceChildren(...rows.reverse());
    this.table.hidden = !rows.length;
    byId("no-minutes").hidden = rows.length > 0;
  },
};

list.start();
consumer.start();
hour.start();
onStatus((status) => consumer.show(status));
connection.start({
  events: (items) => list.take(items),
  status: tellStatus,
  fresh(isFresh) {
    consumer.showAge(isFresh);
    hearElsewhere(isFresh);
  },
});
