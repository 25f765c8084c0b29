// The list of failures: updates it, starts tries, and starts the actions of redrive.js.

import { announce, ask, byId, eventUrl, element, many, setText } from "./common.js";
import { discard, endWork, follow, deadLetterUrl, redrive } from "./redrive.js";
import { works } from "./now.js";
import { refresh } from "./refresh.js";

const FRESH_MS = 3_000;

const page = byId("failures");
const maxAttempts = page.dataset.maxAttempts;
const isOff = (button) => button.getAttribute("aria-disabled") === "true";

// --- updating ---

async function keepFresh() {
  if (!document.hidden) await update();
  setTimeout(keepFresh, FRESH_MS);
}

async function update() {
  await refresh();
  forgetOld();
  showPicked();
}

// Moves the focus from a row that is removed to its list.
function leave() {
  (byId("dead-letters-title") ?? byId("main")).focus();
}

async function updateElsewhere() {
  leave();
  await update();
}

// --- trying one event now ---

async function tryNow(button) {
  const { id, attempts, url } = button.dataset;
  const cell = button.closest("td");
  if (isOff(button)) return;
  cell.dataset.own = "kept"; // the row stays until it shows the outcome
  button.setAttribute("aria-disabled", "true");
  say(cell, works() ? "Trying…" : "It is retried when the consumer runs.");
  const { ok, code, message } = await ask("POST", url);
  if (ok || code === 404) await sayOutcome(cell, id, Number(attempts));
  else say(cell, message);
  button.removeAttribute("aria-disabled");
  update();
}

async function sayOutcome(cell, id, before) {
  const isNews = ({ outcome, attempts }) => outcome === "dead" || attempts.length > before;
  const life = await follow(id, isNews);
  if (!life) {
    cell.dataset.own = "here";
    say(cell, works() ? "Not tried yet." : "It is retried when the consumer runs.");
    return;
  }
  const { outcome, retry, deadLetter } = life;
  if (outcome === "retrying") {
    const tries = retry?.attempts ?? before;
    cell.dataset.own = "here";
    cell.querySelector("button").dataset.attempts = tries;
    say(cell, `Failed again: try ${tries} of ${maxAttempts}.`);
    cell.dataset.tries = `${tries} of ${maxAttempts}`;
    return;
  }
  cell.querySelector("button").hidden = true;
  // The service no longer serves this row, so its next try is out of date.
  for (const due of cell.closest("tr").querySelectorAll(".due")) due.remove();
  const word = outcome === "dead" ? "dead" : "processed";
  const its = outcome === "dead" && deadLetter;
  const link = its
    ? element("a", { href: deadLetterUrl(its.id) }, `Dead letter ${its.id}`)
    : element("a", { href: eventUrl(id) }, "Show the event");
  say(cell, element("span", { class: "badge", "data-word": word }, word), " ", link);
}

function say(cell, ...what) {
  cell.querySelector(".said").replaceChildren(...what);
  cell.dataset.tries = triesOf(cell);
  cell.dataset.works = works();
}

const triesOf = (cell) => cell.closest("tr").querySelector('[data-label="Tries"]')?.textContent;

// Removes the message about a try after the next try, or when the consumer starts or stops.
function forgetOld() {
  for (const cell of document.querySelectorAll('td.act[data-own="here"]')) {
    const { tries, works: worked } = cell.dataset;
    if (tries === triesOf(cell) && worked === String(works())) continue;
    cell.querySelector(".said").replaceChildren();
    for (const name of ["own", "tries", "works"]) delete cell.dataset[name];
  }
}

// --- dead letters ---

const boxes = () => [...document.querySelectorAll('input[name="pick"]')];
const deadLetterOf = (row) => ({ id: Number(row.dataset.key), eventId: row.dataset.event });
const picked = () => boxes().filter((box) => box.checked).map((box) => deadLetterOf(box.closest("tr")));

function showPicked() {
  const count = picked().length;
  const all = byId("pick-all");
  if (!all) return;
  setText(byId("picked"), count ? `${many(count, "dead letter")} selected.` : "");
  all.checked = count > 0 && count === boxes().length;
  all.indeterminate = count > 0 && !all.checked;
  for (const name of ["picked", "discard-picked"]) {
    const button = document.querySelector(`[data-action="${name}"]`);
    button?.setAttribute("aria-disabled", String(!count));
  }
}

function forget() {
  for (const box of boxes()) box.checked = false;
  showPicked();
}

function complain(text) {
  setText(byId("problem"), text);
  byId("problem").hidden = !text;
}

// What each button does.
const ACTIONS = {
  try: tryNow,
  one(button) {
    const deadLetter = deadLetterOf(button.closest("tr"));
    return redrive(`Redriving dead letter ${deadLetter.id}`, [deadLetter], update);
  },
  picked() {
    const deadLetters = picked();
    forget();
    return redrive(`Redriving ${many(deadLetters.length, "selected dead letter")}`, deadLetters, update);
  },
  group: (button) => redrive(
    `Redriving a group of ${many(Number(button.dataset.count), "dead letter")}`,
    JSON.parse(button.dataset.filter),
    update,
  ),
  all: (button) => redrive("Redriving all that match", JSON.parse(button.dataset.filter), update),
  discard: (button) => discard([Number(button.dataset.id)], updateElsewhere),
  "discard-picked": () => discard(picked().map(({ id }) => id), updateElsewhere),
  "end-work"() {
    if (endWork()) leave();
  },
};

document.addEventListener("click", ({ target }) => {
  const button = target.closest?.("[data-action]");
  if (button && !isOff(button)) ACTIONS[button.dataset.action]?.(button);
});
document.addEventListener("change", ({ target }) => {
  if (target.id === "pick-all") for (const box of boxes()) box.checked = target.checked;
  if (target.id === "pick-all" || target.name === "pick") showPicked();
});

showPicked();
keepFresh();
