// The live page's connection: reads /ws/events, and polls the API every few seconds while no socket
// opens. Passes updates to `receiver`: events(items), status(status), fresh(isFresh).
// Used by live.js.

import { announce, ask, asShown, byId, many, parseJson, part, setText, span } from "./common.js";

const CHECK_MS = 5_000;
const SILENCE_MS = 60_000; // heartbeats come every 25 s
const STEADY_MS = 5_000; // a connection that lasts this long counts as good
const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 30_000;
const OFFLINE_AFTER_TRIES = 5;
const RELOAD_MS = 10_000; // the page reloads itself at most this often
const POLL_MS = 3_000;
const POLL_AFTER_TRIES = 3;
const POLL_ITEMS = 500;
const POLL_PAGES = 4;

const page = byId("dashboard");

export const connection = {
  receiver: null,
  socket: null,
  epoch: page.dataset.epoch,
  since: Number(page.dataset.since),
  filtered: page.dataset.socket.includes("?"),
  missed: 0,
  tries: 0,
  isLive: false,
  isPolling: false, // no socket opens, but the API answers
  isAsking: false,
  opened: 0,
  lastFrame: 0,
  lastNews: 0,
  next: 0, // time of the next try
  timer: null,

  start(receiver) {
    this.receiver = receiver;
    setInterval(() => this.check(), CHECK_MS);
    setInterval(() => this.poll(), POLL_MS);
    setInterval(() => this.showNews(), 1_000);
    window.addEventListener("online", () => this.retry());
    document.addEventListener("visibilitychange", () => this.retry());
    this.open();
  },

  open() {
    this.timer = null;
    if (!this.isPolling) this.say(this.tries ? "reconnecting" : "connecting", "waiting");
    const address = new URL(asShown(page.dataset.socket), location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.searchParams.set("since", this.place(this.since));
    let socket;
    try {
      socket = new WebSocket(address);
    } catch {
      this.lost(); // the browser has no sockets, or may not open one
      return;
    }
    this.socket = socket;
    this.opened = this.lastFrame = performance.now();
    socket.addEventListener("message", (message) => {
      if (socket === this.socket) this.receive(parseJson(message.data));
    });
    socket.addEventListener("close", () => {
      if (socket === this.socket) this.lost();
    });
  },

  receive(frame) {
    this.lastFrame = this.lastNews = performance.now();
    const receivers = {
      hello: () => this.hello(frame),
      events: () => this.events(frame.items),
      status: () => this.receiver.status(frame),
      gap: () => this.gap(frame),
    };
    receivers[frame.kind]?.(); // heartbeats, and kinds that a newer service adds, need nothing more
  },

  hello({ epoch, status }) {
    if (this.isAnother(epoch)) return;
    if (this.tries) announce("Live updates are back.");
    this.isLive = true;
    this.isPolling = false;
    this.say("live", "live");
    this.receiver.fresh(true);
    if (status) this.receiver.status(status);
  },

  // Whether the service has a new database, so that the page's numbers are invalid.
  isAnother(epoch) {
    this.epoch ||= epoch; // empty if the events could not be read for this page
    if (!epoch || epoch === this.epoch) return false;
    this.say("the service has new data, reloading", "waiting");
    setTimeout(() => location.reload(), Math.max(0, RELOAD_MS - performance.now()));
    this.forget();
    return true;
  },

  // A change of this page's epoch: the service refuses one that a rebuild has made invalid.
  place(seq) {
    return this.epoch ? `${seq}.${this.epoch}` : String(seq);
  },

  events(items) {
    // Items of the page, and repeated ones, have an old number.
    const fresh = items.filter((item) => item.seq > this.since);
    if (!fresh.length) return;
    this.since = fresh.at(-1).seq;
    byId("problem")?.remove();
    this.receiver.events(fresh);
  },

  async gap({ from, to }) {
    this.since = Math.max(this.since, to);
    if (!this.filtered) {
      this.miss(to - from + 1);
      return;
    }
    // Most missing events may not match the filter: ask the API.
    const found = await this.changes(from - 1, to + 1);
    if (found) this.receiver.events(found.items);
    if (!found?.isWhole) this.miss(null);
  },

  // `count` events are not shown; null: an unknown number.
  miss(count) {
    this.missed += count ?? 0;
    const events = this.missed ? many(this.missed, "event") : "Some events";
    const text = `${events} not shown: there were more than this page can catch up with.`;
    setText(part(byId("gap"), "text"), text);
    byId("gap").hidden = false;
    announce(text);
  },

  lost() {
    const wasLive = this.isLive;
    const wasSteady = wasLive && performance.now() - this.opened > STEADY_MS;
    this.forget();
    this.isLive = false;
    this.tries = wasSteady ? 1 : this.tries + 1;
    const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** (this.tries - 1));
    // Jitter, so that not all pages reconnect to a restarted service at once.
    this.next = performance.now() + longest * (0.5 + Math.random() / 2);
    if (wasLive) announce("Live updates are interrupted; reconnecting.");
    if (!this.isPolling) this.receiver.fresh(false);
    this.count();
    if (this.tries === POLL_AFTER_TRIES) this.poll();
  },

  // Counts down to the next try.
  count() {
    const left = this.next - performance.now();
    if (left <= 0) {
      this.open();
      return;
    }
    const seconds = Math.ceil(left / 1_000);
    this.timer = setTimeout(() => this.count(), left - (seconds - 1) * 1_000);
    if (this.isPolling) return;
    if (this.tries > OFFLINE_AFTER_TRIES) this.say(`offline, next try in ${seconds} s`, "offline");
    else this.say(`reconnecting in ${seconds} s`, "waiting");
  },

  // The operator looks at the page again: try at once.
  retry() {
    if (document.hidden) return;
    if (this.timer) {
      clearTimeout(this.timer);
      this.open();
    } else {
      this.check();
    }
    this.poll();
  },

  check() {
    if (this.socket && performance.now() - this.lastFrame > SILENCE_MS) this.lost();
  },

  // Closes the socket; its later messages are ignored.
  forget() {
    const old = this.socket;
    this.socket = null;
    old?.close();
  },

  // --- without a socket ---

  async poll() {
    if (this.isLive || this.isAsking || document.hidden || this.tries < POLL_AFTER_TRIES) return;
    this.isAsking = true;
    const { since } = this;
    const status = await ask("GET", page.dataset.switch);
    const found = status.ok ? await this.changes(since) : null;
    this.isAsking = false;
    if (this.isLive) return; // the socket came first and sends the same
    if (!found) {
      this.isPolling = false;
      this.receiver.fresh(false);
      return;
    }
    if (this.isAnother(status.data.epoch)) return;
    if (!this.isPolling) announce("Live updates are not available; the page polls instead.");
    this.isPolling = true;
    this.lastNews = performance.now();
    this.say(`polling every ${POLL_MS / 1_000} s`, "polling");
    this.receiver.fresh(true);
    this.receiver.status(status.data);
    if (!found.isWhole) this.miss(null);
    this.events(found.items);
  },

  // The newest changes after `since` (and before `until`), oldest first, and whether these are all
  // of them. Null if the service does not answer.
  async changes(since, until = null) {
    const address = new URL(page.dataset.events, location.href);
    address.searchParams.set("since", this.place(since));
    address.searchParams.set("limit", String(POLL_ITEMS));
    const items = [];
    let after = until;
    for (let pages = 0; pages < POLL_PAGES; pages += 1) {
      if (after !== null) address.searchParams.set("after", String(after));
      const { ok, data } = await ask("GET", address);
      if (!ok) return null;
      items.unshift(...data.events.reverse());
      after = data.next;
      if (after === null) return { items, isWhole: true };
    }
    return { items, isWhole: false };
  },

  // --- words ---

  say(text, look) {
    byId("live").dataset.live = look;
    setText(part(byId("live"), "word"), text);
    this.showNews();
  },

  // The age of what the page shows.
  showNews() {
    if (document.hidden || !this.lastNews) return;
    const seconds = Math.max(0, Math.floor((performance.now() - this.lastNews) / 1_000));
    const age = seconds < 60 ? `${seconds} s` : span(seconds);
    setText(part(byId("live"), "news"), `· last update ${age} ago`);
  },
};
