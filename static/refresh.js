// Updates a page in place: fetches its address again and changes only what differs in
// `[data-fresh]`, so that the focus, pressed buttons and ticked boxes stay.
//
// An element whose content a script writes is marked `data-own`: "here" is not changed while the
// service still serves the element; "kept" stays even when the service no longer does.

import { age, byId, inZone, isLocal, now, setText, showTime, span, tellTime } from "./common.js";
import { tellFresh } from "./now.js";

const PATIENCE_MS = 15_000;
const COUNT_MS = 1_000;

let focused = document.body; // an element that moves loses the focus
let pressed = false; // a button that moves between press and release gets no click
document.addEventListener("pointerdown", () => (pressed = true));
for (const name of ["pointerup", "pointercancel"]) {
  document.addEventListener(name, () => (pressed = false));
}

// Returns whether the page is up to date; if not, `#stale` says since when.
export async function refresh() {
  const { text, problem } = await fetched();
  const stale = byId("stale");
  if (problem) {
    if (stale.hidden) {
      const clock = inZone(now())[1].slice(0, 8);
      const zone = isLocal() ? "local time" : "UTC";
      setText(stale, `${problem} Showing the state at ${clock} ${zone}.`);
      stale.hidden = false;
    }
    return false;
  }
  if (pressed) return false;
  stale.hidden = true;
  const served = new DOMParser().parseFromString(text, "text/html");
  tellTime(served.body.dataset.now);
  focused = document.activeElement;
  for (const old of document.querySelectorAll("[data-fresh]")) {
    const fresh = served.getElementById(old.id);
    if (!fresh || fresh.dataset.at < old.dataset.at) continue; // a newer answer came first
    prepare(fresh);
    morph(old, fresh);
  }
  tellFresh();
  if (focused !== document.activeElement) focused.focus({ preventScroll: true });
  return true;
}

async function fetched() {
  try {
    const response = await fetch(location.href, {
      headers: { Accept: "text/html" },
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (response.ok) return { text: await response.text() };
    return { problem: `The service answered ${response.status}.` };
  } catch {
    return { problem: "The service can't be reached." };
  }
}

// Writes times as common.js does.
function prepare(fresh) {
  for (const time of fresh.querySelectorAll("time")) showTime(time);
  for (const one of fresh.querySelectorAll("[data-age]")) setText(one, age(one.dataset.age));
  const zone = isLocal() ? "local" : "UTC";
  for (const one of fresh.querySelectorAll("[data-zone]")) setText(one, zone);
  showCountdowns(fresh);
}

function morph(old, fresh) {
  if (old.isEqualNode(fresh) || old.dataset?.own) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  morphChildren(old, fresh);
}

// Children with a name match by name, others by position.
const nameOf = (node) => node.dataset?.key ?? (node.id || undefined);

function morphChildren(old, fresh) {
  const served = new Set(Array.from(fresh.children, nameOf));
  const known = new Map(Array.from(old.children, (child) => [nameOf(child), child]));
  const isLeft = (node) => nameOf(node) && !served.has(nameOf(node)) && isKept(node);
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    while (at && isLeft(at)) at = at.nextSibling;
    const name = nameOf(child);
    const match = name ? known.get(name) : isLike(at, child) && at;
    if (match) at = skipTo(match, at, (node) => !served.has(nameOf(node)) && !isKept(node));
    if (!match) old.insertBefore(document.adoptNode(child), at);
    else if (match === at) at = at.nextSibling;
    else old.insertBefore(match, at);
    if (match) morph(match, child);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    if (!isKept(gone)) gone.remove();
  }
}

// Removes what is before `match` and no longer served, instead of moving `match`; returns the next node.
function skipTo(match, at, isGone) {
  let next = at;
  while (next && next !== match && isGone(next)) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
  return next;
}

const isLike = (old, fresh) => old?.nodeName === fresh.nodeName && !nameOf(old);

// What the operator is working on stays.
function isKept(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return false;
  if (node.dataset.own === "kept" || node.querySelector('[data-own="kept"]')) return true;
  return node.contains(focused) && focused.closest("[data-key]");
}

// --- countdowns ---

function countdown(moment) {
  const seconds = Math.ceil((new Date(moment) - now()) / 1_000);
  if (seconds <= 0) return "now";
  return seconds < 60 ? `in ${seconds} s` : `in ${span(seconds)}`;
}

function showCountdowns(where) {
  for (const one of where.querySelectorAll("[data-due]")) setText(one, countdown(one.dataset.due));
}

setInterval(() => showCountdowns(document), COUNT_MS);
