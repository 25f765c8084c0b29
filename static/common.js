// What every page's script needs: words, times in UTC or local, copying, asking the service.
//
// Everything that the scripts know stands in data attributes; whatever an event says is set as
// text, never as markup. The words are those of jobquest/web/pages/words.py.

const ASK_MS = 25_000; // the service answers within 15 s, with the reason where it can't
const AGE_MS = 10_000;
const COPIED_MS = 2_000;
const LEAVING_MS = 10_000;

const { mask, personal: personalFields } = JSON.parse(document.body.dataset.words);
const personal = new Set(personalFields);
const root = document.body.dataset.root;

export const byId = (id) => document.getElementById(id);
export const part = (element, name) => element.querySelector(`[data-part="${name}"]`);

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setOrRemove(element, name, value) {
  if (value === null || value === undefined) element.removeAttribute(name);
  else element.setAttribute(name, value);
}

// What a screen reader is told: changes of state, not each event.
export function announce(text) {
  setText(byId("announcer"), text);
}

// An element with attributes and children (texts or elements): how scripts build what they show.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) setOrRemove(made, name, value);
  made.append(...children);
  return made;
}

// --- words ---

const numbers = new Intl.NumberFormat("en-US");
export const number = (n) => numbers.format(n);
export const many = (n, noun) => `${number(n)} ${noun}${n === 1 ? "" : "s"}`;

// Characters that nobody sees but that reorder or split what stands around them; halves of them.
const UNSEEN =
  /[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]/gu;

export function visible(text) {
  return text.replace(UNSEEN, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// `value` with personal data masked, at any depth, unless this view shows it.
export function shown(value) {
  if (Array.isArray(value)) return value.map(shown);
  if (value === null || typeof value !== "object" || JSON.isRawJSON?.(value)) return value;
  const members = Object.entries(value);
  return Object.fromEntries(
    members.map(([name, member]) => [name, personal.has(name) ? mask : shown(member)]),
  );
}

// A number that the browser's own would round is kept as it is spelled, where the browser can: it
// is an object that `JSON.stringify` spells again.
const HUGE = /\d{16}|\d[eE][-+]?\d{3}/;

export function parseJson(text) {
  if (!HUGE.test(text) || !JSON.rawJSON) return JSON.parse(text);
  return JSON.parse(text, (_name, value, { source }) => (
    typeof value === "number" && HUGE.test(source) ? JSON.rawJSON(source) : value
  ));
}

// `value` as a JSON document to read; it is masked already.
export function jsonText(value) {
  return JSON.stringify(value, null, 2).split("\n").map(visible).join("\n");
}

export function span(seconds) {
  const units = [[86_400, "d", 3_600, "h"], [3_600, "h", 60, "min"], [60, "min", 1, "s"]];
  for (const [size, unit, smaller, smallerUnit] of units) {
    if (seconds >= size) {
      const rest = Math.floor((Math.floor(seconds) % size) / smaller);
      return `${Math.floor(seconds / size)} ${unit} ${rest} ${smallerUnit}`;
    }
  }
  return `${seconds.toFixed(1)} s`;
}

// A path where one can carry the id: browsers fold dots and servers slashes.
function url(kind, id) {
  const folded = id === "." || id === ".." || /[/\\]/.test(id);
  return `${root}/${kind}${folded ? "?id=" : "/"}${encodeURIComponent(id)}`;
}

export const eventUrl = (id) => url("events", id);
export const userUrl = (id) => url("users", id);

// --- times ---

const two = (n) => String(n).padStart(2, "0");

let zone = "utc"; // for browsers that store nothing
const stored = () => {
  try {
    return localStorage.getItem("zone") ?? zone;
  } catch {
    return zone;
  }
};
const store = (name) => {
  zone = name;
  try {
    localStorage.setItem("zone", name);
  } catch {
    // It is kept for as long as the page is open.
  }
};

export const isLocal = () => stored() === "local";

// An RFC 3339 time as [date, clock] in the zone that was chosen, milliseconds included.
export function inZone(time) {
  if (!isLocal()) {
    const utc = new Date(time).toISOString();
    return [utc.slice(0, 10), utc.slice(11, -1)];
  }
  const moment = new Date(time);
  const date = [moment.getFullYear(), two(moment.getMonth() + 1), two(moment.getDate())].join("-");
  const clock = [moment.getHours(), moment.getMinutes(), moment.getSeconds()].map(two).join(":");
  return [date, `${clock}.${String(moment.getMilliseconds()).padStart(3, "0")}`];
}

// The service's clock, Unix milliseconds: the browser's own may be wrong by hours. Pages and
// statuses tell it; meanwhile the time that passes is counted.
let ahead = 0; // of `performance.now()`
export const now = () => ahead + performance.now();
export function tellTime(told, since = performance.now()) {
  ahead = Number(told) - since;
}
const [arrival] = performance.getEntriesByType("navigation");
tellTime(document.body.dataset.now, arrival?.responseStart ?? 0);

export function age(time) {
  const seconds = (now() - new Date(time)) / 1_000;
  if (Math.abs(seconds) < 1) return "just now";
  return seconds < 0 ? `in ${span(-seconds)}` : `${span(seconds)} ago`;
}

// Write a <time>, with or without parts for date and clock, as it is to be read.
export function showTime(time) {
  if (!time.dateTime) return;
  const [date, clock] = inZone(time.dateTime);
  const [dated, clocked] = [part(time, "date"), part(time, "time")];
  if (clocked) {
    setText(dated, date);
    setText(clocked, clock);
  } else {
    setText(time, `${date} ${clock}`);
  }
}

export function timeElement(value) {
  const time = element("time", { datetime: value });
  showTime(time);
  return time;
}

function showTimes() {
  const word = isLocal() ? "local" : "UTC";
  setText(byId("zone"), `Times: ${word}`);
  for (const name of document.querySelectorAll("[data-zone]")) setText(name, word);
  for (const time of document.querySelectorAll("time")) showTime(time);
  for (const input of document.querySelectorAll('input[type="datetime-local"]')) showInput(input);
  document.dispatchEvent(new Event("zonechange"));
}

// A field for a time holds what was chosen as RFC 3339 in `data-time`, and shows it in the zone.
function showInput(input) {
  if (input.dataset.time) input.value = inZone(input.dataset.time).join("T");
}

function readInput(input) {
  if (!input.value) return "";
  return new Date(isLocal() ? input.value : `${input.value}Z`).toISOString();
}

function showAges() {
  if (document.hidden) return;
  for (const one of document.querySelectorAll("[data-age]")) setText(one, age(one.dataset.age));
}

byId("zone").addEventListener("click", () => {
  store(isLocal() ? "utc" : "local");
  showTimes();
  announce(`Times are ${isLocal() ? "local" : "UTC"}.`);
});
window.addEventListener("storage", showTimes);
document.addEventListener("input", ({ target }) => {
  if (target.type === "datetime-local") target.dataset.time = readInput(target);
});
document.addEventListener("formdata", ({ target, formData }) => {
  for (const input of target.querySelectorAll('input[type="datetime-local"][name]')) {
    formData.set(input.name, readInput(input));
  }
  for (const name of new Set(formData.keys())) {
    const values = formData.getAll(name).filter((value) => value !== "");
    formData.delete(name);
    for (const value of values) formData.append(name, value);
  }
});
// On hover: how long ago, and the time in UTC.
document.addEventListener("pointerover", ({ target }) => {
  const time = target.closest?.("time[datetime]");
  if (time) time.title = `${age(time.dateTime)} · ${time.dateTime}`;
});

// --- copying ---

document.addEventListener("click", async ({ target }) => {
  const button = target.closest?.(".copy");
  if (!button) return;
  const text = button.parentElement.querySelector("pre").textContent;
  const word = await navigator.clipboard.writeText(text).then(
    () => "Copied",
    () => "Not allowed",
  );
  button.textContent = word;
  announce(word);
  setTimeout(() => setText(button, "Copy"), COPIED_MS);
});

// --- asking the service ---

// The answer's `data`, `message` and `errors`, whether it was taken (`ok`) and its `code`, 0 where
// nobody answered. Never rejects.
export async function ask(method, address, body) {
  try {
    const response = await fetch(address, {
      method,
      headers: { Accept: "application/json", ...(body && { "Content-Type": "application/json" }) },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(ASK_MS),
    });
    const answer = await response.text().then(parseJson).catch(() => null);
    if (response.ok && !answer) {
      return { ok: false, code: 0, message: "The service's answer broke off; try again." };
    }
    const message = answer?.message ?? `The service answered ${response.status}.`;
    return { ...answer, message, ok: response.ok, code: response.status };
  } catch (error) {
    const late = error.name === "TimeoutError";
    const what = late ? "The service did not answer in time" : "The service can't be reached";
    return { ok: false, code: 0, message: `${what}; try again.` };
  }
}

// --- going elsewhere ---

let left = -Infinity;
window.addEventListener("beforeunload", () => (left = performance.now()));

// Whether the operator is on the way to another page, which one that loads anew would keep them
// from.
export const isLeaving = () => performance.now() - left < LEAVING_MS;

showTimes();
showAges();
setInterval(showAges, AGE_MS);
