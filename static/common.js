// Used by the scripts of every page: words, times in UTC or local time, copying, calls of the API.
//
// Scripts get all their data from data attributes; event data is set as text, never as markup. The
// words are the same as in jobquest/web/pages/words.py.

const ASK_MS = 25_000; // the service answers within 15 s, also with an error
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

// Text for screen readers: changes of state, not each event.
export function announce(text) {
  setText(byId("announcer"), text);
}

// Makes an element with attributes and children (texts or elements).
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

// Invisible characters, which could reorder or split the text around them; halves of characters.
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

// A number that JavaScript would round keeps its digits if the browser supports it: as an object
// that `JSON.stringify` writes unchanged.
const HUGE = /\d{16}|\d[eE][-+]?\d{3}/;

export function parseJson(text) {
  if (!HUGE.test(text) || !JSON.rawJSON) return JSON.parse(text);
  return JSON.parse(text, (_name, value, { source }) => (
    typeof value === "number" && HUGE.test(source) ? JSON.rawJSON(source) : value
  ));
}

// `value` as a readable JSON document; it is masked already.
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

// A path, or a query if a path can't carry the id: browsers fold dots, servers fold slashes.
function url(kind, id) {
  const folded = id === "." || id === ".." || /[/\\]/.test(id);
  return `${root}/${kind}${folded ? "?id=" : "/"}${encodeURIComponent(id)}`;
}

export const eventUrl = (id) => url("events", id);
export const userUrl = (id) => url("users", id);

// --- times ---

const two = (n) => String(n).padStart(2, "0");

let zone = "utc"; // for browsers without storage
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
    // The choice lasts while the page is open.
  }
};

export const isLocal = () => stored() === "local";

// An RFC 3339 time as [date, clock] in the chosen zone, with milliseconds.
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

// The service's clock in Unix milliseconds, because the browser's clock may be wrong by hours. Each
// page and each status sets it; between them `performance.now()` counts on.
let ahead = 0; // ms that it is ahead of `performance.now()`
export const now = () => ahead + performance.now();
export function tellTime(time, since = performance.now()) {
  ahead = Number(time) - since;
}
const [arrival] = performance.getEntriesByType("navigation");
tellTime(document.body.dataset.now, arrival?.responseStart ?? 0);

export function age(time) {
  const seconds = (now() - new Date(time)) / 1_000;
  if (Math.abs(seconds) < 1) return "just now";
  return seconds < 0 ? `in ${span(-seconds)}` : `${span(seconds)} ago`;
}

// Writes the text of a <time>, with or without parts for date and clock.
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

// A time field keeps its RFC 3339 value in `data-time` and shows it in the chosen zone.
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
// The tooltip of a time: how long ago, and the time in UTC.
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

// --- calling the API ---

// The address for the same view as this page's: with personal data if the page shows it.
export function asShown(address) {
  if (personal.size) return address;
  const shownToo = new URL(address, location.href);
  shownToo.searchParams.set("personal", "shown");
  return shownToo;
}

// Returns the answer's `data`, `message`, `errors`, whether it is a success (`ok`), and its `code`,
// 0 without an answer. Never rejects.
export async function ask(method, address, body) {
  const { csrf } = document.body.dataset; // nobody else's page knows it
  if (method === "GET") address = asShown(address);
  try {
    const response = await fetch(address, {
      method,
      headers: {
        Accept: "application/json",
        ...(body && { "Content-Type": "application/json" }),
        ...(csrf && { "X-CSRF-Token": csrf }),
      },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(ASK_MS),
    });
    const answer = await response.text().then(parseJson).catch(() => null);
    if (response.ok && !answer) {
      return { ok: false, code: 0, message: "The service's answer was incomplete; try again." };
    }
    const message = answer?.message ?? `The service answered ${response.status}.`;
    return { ...answer, message, ok: response.ok, code: response.status };
  } catch (error) {
    const late = error.name === "TimeoutError";
    const what = late ? "The service did not answer in time" : "The service can't be reached";
    return { ok: false, code: 0, message: `${what}; try again.` };
  }
}

// --- leaving the page ---

let left = -Infinity;
window.addEventListener("beforeunload", () => (left = performance.now()));

// Whether the operator is on the way to another page: a reload would stop that.
export const isLeaving = () => performance.now() - left < LEAVING_MS;

showTimes();
showAges();
setInterval(showAges, AGE_MS);
