// The live page's list of events: bounded, newest change first. It builds a few rows at a time, so
// that the page stays responsive at a thousand events per second. Used by live.js.

import {
  announce, byId, eventUrl, jsonText, many, number, part, setOrRemove, setText, showTime, shown,
  userUrl, visible,
} from "./common.js";

const RENDER_MS = 200; // between two changes of the list
const RENDER_SHARE = 4; // after a change of 100 ms it rests for 400 ms
const BATCH_ROWS = 40; // built in one change, at most
const BATCH_MS = 25;

const page = byId("dashboard");
const limits = JSON.parse(page.dataset.limits);
const words = JSON.parse(page.dataset.words);
const outcomes = JSON.parse(page.dataset.outcomes);
const template = byId("row").content.firstElementChild;

// --- words ---

function summary(data) {
  const pairs = Object.entries(data).map(
    ([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`,
  );
  const characters = [...visible(pairs.join(" · ") || "no data")];
  if (characters.length <= limits.summary) return characters.join("");
  return `${characters.slice(0, limits.summary - 1).join("")}…`;
}

// --- addresses ---

// Encodes as the server does.
const escape = (text) => encodeURIComponent(text)
  .replace(/[!*'()]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`)
  .replaceAll("%20", "+");

// This view's address with changes in its query; an empty list removes a parameter.
function here(changes) {
  const values = new Map();
  for (const [name, value] of new URLSearchParams(location.search)) {
    values.set(name, [...(values.get(name) ?? []), value]);
  }
  for (const [name, value] of Object.entries(changes)) values.set(name, value);
  const pairs = [...values].flatMap(
    ([name, all]) => all.map((value) => `${escape(name)}=${escape(value)}`),
  );
  return location.pathname + (pairs.length ? `?${pairs.join("&")}` : "");
}

// Links to the view with only, or without, events of a value, by the filters' names.
function links(name, excluded, value) {
  if (!value) return { [name]: null, [excluded]: null };
  const query = new URLSearchParams(location.search);
  const others = (of) => [...new Set(query.getAll(of))].filter((one) => one && one !== value);
  return {
    [name]: here({ [name]: [value], [excluded]: [] }),
    [excluded]: here({ [name]: others(name), [excluded]: [...others(excluded), value] }),
  };
}

// --- the list ---

// The page filters by outcome, not the socket: an event leaves the list when its outcome changes.
function passes({ outcome }) {
  const { outcome: only, notOutcome: not } = outcomes;
  return (!only.length || only.includes(outcome)) && !not.includes(outcome);
}

export const list = {
  table: byId("events"),
  body: byId("events").tBodies[0],
  button: byId("pause"),
  rows: new Map(), // event id → its row
  seqs: new WeakMap(), // row → the change that it shows
  items: new WeakMap(), // row → its live item: the details are built when they are opened
  waiting: new Map(), // event id → item without a row, or with an older row
  leaving: new Set(), // event ids
  more: page.dataset.more === "true", // there are older events
  paused: false,
  dropped: 0, // waiting items that the list has no room for
  timer: null,

  start() {
    for (const row of this.body.rows) {
      this.rows.set(row.dataset.id, row);
      this.seqs.set(row, Number(row.dataset.seq));
    }
    this.button.hidden = false;
    this.button.addEventListener("click", () => this.togglePause());
    document.addEventListener("visibilitychange", () => this.schedule());
    this.body.addEventListener("toggle", ({ target }) => {
      if (target.open) this.fill(target.closest("tr"));
    }, true);
  },

  take(items) {
    for (const item of items) {
      const { id } = item.event;
      const newest = this.waiting.get(id)?.seq ?? this.seqs.get(this.rows.get(id)) ?? 0;
      if (item.seq <= newest) continue; // sent twice
      this.waiting.delete(id);
      this.leaving.delete(id);
      if (passes(item)) this.waiting.set(id, item);
      else if (this.rows.has(id)) this.leaving.add(id);
    }
    this.bound();
    this.schedule();
  },

  // Keeps only as many waiting items as the list has room for, the newest ones.
  bound() {
    if (this.waiting.size <= limits.rows) return;
    for (const { event } of this.newest().slice(limits.rows)) {
      this.waiting.delete(event.id);
      this.dropped += 1;
    }
  },

  newest() {
    return [...this.waiting.values()].sort((one, other) => other.seq - one.seq);
  },

  togglePause() {
    this.paused = !this.paused;
    announce(this.paused ? "The list is paused: new events wait." : "The list continues.");
    this.note();
    this.schedule(0);
  },

  schedule(wait = RENDER_MS) {
    if (this.paused) this.note();
    if (this.timer || this.paused || document.hidden) return;
    if (!this.waiting.size && !this.leaving.size) return;
    this.timer = setTimeout(() => requestAnimationFrame(() => this.render()), wait);
  },

  render() {
    this.timer = null;
    if (this.paused || document.hidden) return;
    const began = performance.now();
    const focused = document.activeElement; // loses the focus if its row moves
    for (const id of this.leaving) this.remove(this.rows.get(id));
    this.leaving.clear();
    this.place(began);
    if (focused !== document.activeElement) focused.focus({ preventScroll: true });
    this.more ||= this.dropped > 0;
    this.dropped = 0;
    this.trim();
    this.table.hidden = !this.rows.size;
    byId("empty").hidden = this.rows.size > 0;
    this.note();
    // The next frame comes after the layout, whose time counts too.
    this.timer = requestAnimationFrame(() => {
      this.timer = null;
      const rest = RENDER_SHARE * (performance.now() - began);
      this.schedule(this.waiting.size ? Math.min(RENDER_MS, rest) : Math.max(RENDER_MS, rest));
    });
  },

  // Makes rows for the newest waiting items, each above the first older row; the rest follows later.
  place(began) {
    let at = this.body.firstElementChild;
    for (const item of this.newest().slice(0, BATCH_ROWS)) {
      while (at && this.seqs.get(at) > item.seq) at = at.nextElementSibling;
      this.waiting.delete(item.event.id);
      const row = this.row(item);
      if (row === at) at = at.nextElementSibling;
      this.body.insertBefore(row, at);
      if (performance.now() - began > BATCH_MS) break;
    }
  },

  // An event that is sent again keeps its row, open or closed; the row moves.
  row(item) {
    const { event, seq } = item;
    const row = this.rows.get(event.id) ?? template.cloneNode(true);
    this.rows.set(event.id, row);
    this.seqs.set(row, seq);
    this.items.set(row, item);
    Object.assign(row.dataset, { id: event.id, seq: String(seq), outcome: item.outcome });
    const texts = {
      type: visible(event.type ?? "unreadable"),
      "user-id": visible(event.userId ?? "unknown"),
      outcome: item.outcome,
      topic: visible(item.topic),
      place: `partition ${item.partition}, offset ${item.offset}`,
      summary: item.truncated ? words.tooLarge : summary(shown(event.data)),
    };
    if (!event.timestamp) Object.assign(texts, { time: "unknown", date: "" });
    for (const [name, text] of Object.entries(texts)) setText(part(row, name), text);
    part(row, "outcome").dataset.word = item.outcome;
    part(row, "type").href = eventUrl(event.id);
    setOrRemove(part(row, "user"), "href", event.userId ? userUrl(event.userId) : null);
    setOrRemove(row.querySelector("time"), "datetime", event.timestamp);
    showTime(row.querySelector("time"));
    if (row.querySelector("details").open) this.fill(row);
    return row;
  },

  fill(row) {
    const item = this.items.get(row);
    if (!item) return; // the server filled it
    const { event } = item;
    setText(part(row, "document"), jsonText(shown(event)));
    part(row, "page").href = eventUrl(event.id);
    const views = {
      ...links("type", "notType", event.type),
      ...links("userId", "notUserId", event.userId),
    };
    for (const link of row.querySelectorAll("[data-filter]")) {
      setOrRemove(link, "href", views[link.dataset.filter]);
    }
  },

  remove(row) {
    this.rows.delete(row.dataset.id);
    row.remove();
  },

  trim() {
    while (this.body.rows.length > limits.rows) {
      this.remove(this.body.lastElementChild);
      this.more = true;
    }
    const last = this.body.lastElementChild;
    if (this.body.rows.length < limits.rows) return;
    for (const [id, { seq }] of this.waiting) {
      if (seq < this.seqs.get(last)) this.waiting.delete(id);
    }
  },

  note() {
    const rows = this.rows.size;
    let text = rows ? `${many(rows, "event")}.` : "";
    if (this.more) text = `Showing the latest ${rows} events.`;
    if (this.more && rows === limits.rows) {
      text = `Showing the latest ${rows} events, the limit of this page.`;
    }
    const waiting = this.waiting.size + this.dropped;
    if (!this.paused && waiting) text += ` ${number(waiting)} more being added.`;
    setText(byId("list-note"), text.trim());
    if (this.paused) setText(this.button, waiting ? `Resume, ${waiting} new` : "Resume");
    else setText(this.button, "Pause");
    this.button.classList.toggle("first", this.paused);
    this.showOlder();
  },

  showOlder() {
    const last = this.body.lastElementChild;
    for (const link of document.querySelectorAll("[data-older]")) {
      link.hidden = !this.more || !last;
      if (last) link.href = here({ after: [String(this.seqs.get(last))] });
    }
  },
};
