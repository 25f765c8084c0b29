// An operator's actions on dead letters, in the list and on a dead letter's page: redrive them in
// parts that can be stopped, see the outcome of each, and discard them with a reason. The markup is
// in templates/_dead_letters.html.

import {
  announce, ask, byId, element, eventUrl, many, number, setText, shown, visible,
} from "./common.js";
import { works } from "./now.js";

const CHUNK = 25; // dead letters per request, which takes a quarter of a second
const PAGE = 100; // dead letters per request of the list
const FOLLOWED = 50; // events per round
const AT_ONCE = 10;
const ROUND_MS = 500;
const PATIENCE_MS = 30_000; // without any change
const WATCH_MS = 3_000; // between two looks at events that are retried
const LISTED = 50;
const CUT = 240; // characters of a reason; the dead letter's page shows all of it

const panel = byId("work");
const root = document.body.dataset.root;
const cut = (text) => (text.length > CUT ? `${text.slice(0, CUT)}…` : text);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export const isWorking = () => panel.dataset.busy === "true";
const isPersonal = new URLSearchParams(location.search).get("personal") === "shown";
const view = isPersonal ? "?personal=shown" : "";
export const deadLetterUrl = (id) => `${root}/dead-letters/${id}${view}`;

// --- following an event ---

// An event's life once it has an outcome, else null: it is processed, or `isNews(life)` says that its
// dead letter or its tries are new.
async function outcomeOf(eventId, isNews) {
  const { ok, data } = await ask("GET", `${panel.dataset.events}/${encodeURIComponent(eventId)}`);
  if (!ok) return null;
  return data.outcome === "processed" || isNews(data) ? data : null;
}

// Asks until there is an outcome, or for the longest time that the page waits.
export async function follow(eventId, isNews) {
  const end = performance.now() + PATIENCE_MS;
  while (performance.now() < end) {
    const life = await outcomeOf(eventId, isNews);
    if (life) return life;
    await pause(ROUND_MS);
  }
  return null;
}

// --- a run: dead letters, one part after the other ---

class Run {
  constructor(title, changed) {
    this.title = title;
    this.changed = changed; // updates the page, before the panel shows more than the page
    this.deadLetters = []; // {id, eventId}, oldest first
    this.asked = 0;
    this.redriven = [];
    this.reasons = []; // why others were refused
    this.outcomes = new Map(); // dead letter's id → its event's outcome
    this.listed = 0;
    this.last = null; // the life of the last event with an outcome
    this.stopped = false;
    this.left = false;
    this.isLate = false;
    this.problem = null;
  }

  open() {
    panel.hidden = false;
    panel.dataset.busy = "true";
    setText(byId("work-title"), this.title);
    byId("work-list").replaceChildren();
    byId("work-list").hidden = true;
    byId("work-problem").hidden = true;
    setText(byId("work-outcome"), "");
    byId("work-progress").removeAttribute("value");
    byId("work-progress").hidden = false;
    setText(button(), "Stop");
    button().focus({ preventScroll: true });
    announce(this.title);
  }

  // Sends all parts, until the end, a stop or a problem.
  async redrive() {
    while (this.asked < this.deadLetters.length && !this.stopped && !this.problem) {
      const chunk = this.deadLetters.slice(this.asked, this.asked + CHUNK);
      const ids = chunk.map(({ id }) => id);
      const { ok, data, message } = await ask("POST", panel.dataset.url, { ids });
      if (ok) this.take(chunk, data);
      else this.fail(message);
      this.show();
    }
  }

  take(chunk, { redriven, refused }) {
    const taken = new Set(redriven);
    this.asked += chunk.length;
    this.redriven.push(...chunk.filter(({ id }) => taken.has(id)));
    this.reasons.push(...refused.map(({ reason }) => reason));
    for (const { id, reason } of refused) this.list(id, `refused: ${reason}`, "Edit it");
  }

  fail(message) {
    this.problem = message;
    setText(byId("work-problem"), message);
    byId("work-problem").hidden = false;
  }

  list(id, text, word) {
    this.listed += 1;
    const line = this.listed > LISTED ? [`${this.listed - LISTED} more are not listed.`]
      : [`Dead letter ${id} ${cut(visible(text))} `, element("a", { href: deadLetterUrl(id) }, word)];
    const list = byId("work-list");
    if (this.listed > LISTED + 1) list.lastElementChild.replaceChildren(...line);
    else list.append(element("li", {}, ...line));
    list.hidden = false;
  }

  show() {
    const all = this.deadLetters.length;
    const progress = byId("work-progress");
    progress.max = Math.max(all, 1);
    progress.value = this.asked;
    let words = `${number(this.redriven.length)} of ${number(all)} redriven`;
    if (this.reasons.length) words += `, ${number(this.reasons.length)} refused`;
    if (this.stopped && this.asked < all) words = `Stopped: ${words}`;
    setText(byId("work-words"), `${words}.`);
  }

  // Waits for the outcomes of redriven events; a second press on Stop ends that.
  async follow() {
    let end = performance.now() + PATIENCE_MS;
    this.showOutcome();
    while (this.waiting.length && performance.now() < end && !this.left) {
      if (await this.lookAround(this.waiting)) end = performance.now() + PATIENCE_MS;
      if (this.waiting.length) await pause(ROUND_MS);
    }
    this.isLate = true;
    this.showOutcome();
  }

  // Watches events that are retried until each is processed or dead, or the panel shows something
  // else.
  async watch() {
    while (run === this && !panel.hidden && this.unended.length) {
      await pause(WATCH_MS);
      if (!document.hidden && run === this && !isWorking()) await this.lookAround(this.unended);
    }
  }

  get waiting() {
    return this.redriven.filter(({ id }) => !this.outcomes.has(id));
  }

  get unended() {
    const isOpen = ({ id }) => [undefined, "retrying"].includes(this.outcomes.get(id));
    return this.redriven.filter(isOpen);
  }

  // Looks at some of these, the others come first in the next round; returns whether any changed.
  async lookAround(deadLetters) {
    const round = deadLetters.slice(0, FOLLOWED);
    let isNews = false;
    for (let at = 0; at < round.length; at += AT_ONCE) {
      const known = await Promise.all(
        round.slice(at, at + AT_ONCE).map((deadLetter) => this.lookAt(deadLetter)),
      );
      isNews ||= known.includes(true);
    }
    const isSeen = new Set(round);
    this.redriven = [...this.redriven.filter((deadLetter) => !isSeen.has(deadLetter)), ...round];
    if (isNews) await this.changed();
    this.showOutcome();
    return isNews;
  }

  // Looks at the outcome of a dead letter's event; returns whether it is new.
  async lookAt(deadLetter) {
    deadLetter.eventId = await eventIdOf(deadLetter);
    const life = await outcomeOf(deadLetter.eventId, (its) => isAfter(its, deadLetter));
    if (!life || this.outcomes.get(deadLetter.id) === life.outcome) return false;
    this.outcomes.set(deadLetter.id, life.outcome);
    this.last = life;
    const [newest] = life.deadLetters;
    if (life.outcome === "dead") {
      this.list(newest.id, `is dead again: ${newest.error.startsWith(newest.errorClass) ? "" : `${newest.errorClass}: `}${newest.error}`, "Open it");
    }
    return true;
  }

  showOutcome() {
    if (run !== this) return; // the panel shows another run
    const outcomes = [...this.outcomes.values()];
    const count = (wanted) => outcomes.filter((one) => one === wanted).length;
    const waiting = this.waiting.length;
    const words = [
      [count("processed"), "processed"],
      [count("retrying"), "failed again and will be retried"],
      [count("dead"), "dead again"],
      [waiting, this.isLate ? "still waiting" : "not processed yet"],
    ].filter(([of]) => of).map(([of, its]) => `${number(of)} ${its}`);
    const late = waiting && !works() ? " The consumer is not running." : "";
    const text = words.length ? `Results: ${words.join(", ")}.${late}` : "";
    setText(byId("work-outcome"), text);
    if (this.redriven.length === 1 && this.last) this.showOne(this.last);
  }

  // For a single event: its outcome, and what it changed.
  showOne(life) {
    const said = {
      processed: "It is processed.",
      retrying: "It failed again and will be retried.",
      dead: "It is dead again.",
    }[life.outcome];
    const link = element("a", { href: eventUrl(life.event.id) }, "Show the event");
    byId("work-outcome").replaceChildren(`${said} ${effectsWords(life.effects)} `, link);
  }

  close() {
    panel.dataset.busy = "false";
    byId("work-progress").hidden = true;
    setText(button(), "Close");
    announce([byId("work-words"), byId("work-outcome")].map((one) => one.textContent).join(" "));
  }
}

const button = () => panel.querySelector('[data-action="end-work"]');
let run = null;

function isAfter(life, deadLetter) {
  if (life.outcome === "retrying") return true;
  return life.deadLetters.some(({ id }) => id > deadLetter.id);
}

// An unreadable record has no event until it is edited.
async function eventIdOf({ id, eventId }) {
  if (!eventId.startsWith("jq:dead:")) return eventId;
  const { data } = await ask("GET", `${panel.dataset.deadLetters}/${id}`);
  try {
    return JSON.parse(data.edited ?? data.value).id ?? eventId;
  } catch {
    return eventId;
  }
}

function effectsWords(effects) {
  const texts = effects.map(({ table, key, added, given }) => {
    const changes = [
      ...Object.entries(added).map(([name, n]) => `${name} ${n < 0 ? "" : "+"}${number(n)}`),
      ...Object.entries(shown(given)).map(([name, value]) => `${name} = ${value}`),
    ];
    const row = `${table} of ${Object.values(key).join(", ")}`;
    return changes.length ? `${row} (${changes.join(", ")})` : row;
  });
  return texts.length ? visible(`It changed ${texts.join("; ")}.`) : "";
}

// Redrives dead letters and shows the outcomes. `deadLetters`: a list of {id, eventId}, or a filter
// of the API, whose dead letters are found first. Returns the run when all outcomes are known; calls
// `changed` meanwhile. One run at a time.
export async function redrive(title, deadLetters, changed) {
  if (isWorking()) return null;
  run = new Run(title, changed);
  run.open();
  if (Array.isArray(deadLetters)) run.deadLetters = deadLetters;
  else await collect(run, deadLetters);
  run.deadLetters.sort((one, other) => one.id - other.id); // a user's events in their order
  run.show();
  await run.redrive();
  await changed();
  await run.follow();
  run.close();
  run.watch();
  return run;
}

async function collect(run, filter) {
  let after = null;
  do {
    const query = new URLSearchParams({ ...filter, limit: PAGE });
    if (after !== null) query.set("after", after);
    const { ok, data, message } = await ask("GET", `${panel.dataset.deadLetters}?${query}`);
    if (!ok) return run.fail(message);
    run.deadLetters.push(...data.deadLetters.map(({ id, eventId }) => ({ id, eventId })));
    after = data.next;
    setText(byId("work-words"), `${many(run.deadLetters.length, "dead letter")} found.`);
  } while (after !== null && !run.stopped);
}

// Stops a run between two parts; closes the panel of a finished run.
export function endWork() {
  if (isWorking()) {
    run.left = run.stopped;
    run.stopped = true;
    return false;
  }
  panel.hidden = true;
  return true;
}

// --- discarding ---

// Discards dead letters and removes them from `ids`; returns the problem if one can't be discarded.
async function discardAll(ids, reason) {
  while (ids.length) {
    const address = `${panel.dataset.deadLetters}/${ids[0]}/discard`;
    const { ok, message, errors } = await ask("POST", address, { reason });
    if (!ok) return `Dead letter ${ids[0]}: ${errors?.reason?.join(" ") ?? message}`;
    ids.shift();
  }
  return null;
}

// Asks for a reason, then discards these dead letters and calls `done()`.
export function discard(ids, done) {
  const dialog = byId("discard");
  const form = byId("discard-form");
  const problem = byId("discard-problem");
  const what = ids.length === 1 ? `dead letter ${ids[0]}` : many(ids.length, "dead letter");
  setText(byId("discard-title"), `Discard ${what}`);
  form.reset();
  problem.hidden = true;
  let isBusy = false;
  form.onsubmit = async (submission) => {
    submission.preventDefault();
    if (isBusy) return;
    isBusy = true;
    const trouble = await discardAll(ids, byId("discard-reason").value);
    isBusy = false;
    setText(problem, trouble ?? "");
    problem.hidden = !trouble;
    if (trouble) return;
    dialog.close();
    announce(`Discarded ${what}.`);
    done();
  };
  dialog.showModal();
}

byId("discard").querySelector('[data-action="keep"]').addEventListener("click", () => {
  byId("discard").close();
});
