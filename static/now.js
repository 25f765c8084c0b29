// The header of every page: the consumer's state, the lag and the open dead letters, and the banner
// while the service does not work. Polls the status every few seconds, unless the page has a live
// connection. The words are the same as in jobquest/web/pages/now.py.

import {
  announce, ask, byId, inZone, isLocal, many, now, part, setText, span, tellTime, visible,
} from "./common.js";

const ASK_MS = 5_000;
const REORDERED_MS = 3_000; // an older answer is at most this late

// State → its look, its meaning, the next step, the page for that step and the text of its link.
export const { states, away } = JSON.parse(document.body.dataset.words);
const place = byId("service-now");
const listeners = [];
let announced = place.dataset.state; // the state that screen readers know
let heard = performance.now();
let isLive = false; // a live connection sends each change

// Whether events are processed now, as the page shows it.
export const works = () => place.dataset.works === "true";

// Sets whether a live connection sends each change, so that polling is not needed.
export function hearElsewhere(isConnected) {
  isLive = isConnected;
}

// Calls `listener` with each new status, wherever it comes from.
export function onStatus(listener) {
  listeners.push(listener);
}

export function lagWords({ messages, seconds }) {
  if (messages === null) return "not known";
  if (messages === 0) return "caught up";
  const behind = many(messages, "message");
  return seconds === null ? `${behind} behind` : `${behind}, ${span(seconds)} behind`;
}

function deadLettersWords(count) {
  if (count === undefined) return "dead letters not known";
  return count ? many(count, "open dead letter") : "no open dead letters";
}

// Shows a new status here and passes it to the page's other parts.
export function tellStatus(status) {
  heard = performance.now();
  showStale("");
  const late = Date.parse(place.dataset.at) - Date.parse(status.timestamp);
  if (late > 0 && late < REORDERED_MS) return;
  tellTime(Date.parse(status.timestamp));
  show(status);
  for (const listener of listeners) listener(status);
  sayState(status.reason);
}

// To call when the header was updated with the rest of the page.
export function tellFresh() {
  heard = performance.now();
  showStale("");
  sayState();
}

function sayState(reason) {
  const { state } = place.dataset;
  if (announced === state) return;
  announced = state;
  const word = part(place, "now-state").textContent;
  announce(`Consumer: ${word}. ${reason ?? states[state]?.[1] ?? ""}`);
}

function show(status) {
  const [look = "quiet", , next = ""] = states[status.state] ?? [];
  Object.assign(place.dataset, {
    at: status.timestamp, state: status.state, works: String(status.consumerRunning),
  });
  place.querySelector(".now").dataset.look = look;
  setText(part(place, "now-state"), status.state.charAt(0).toUpperCase() + status.state.slice(1));
  setText(part(place, "now-lag"), lagWords(status.lag));
  setText(part(place, "now-dead-letters"), deadLettersWords(status.deadLetters));
  part(place, "now-dead-letters").classList.toggle("failing", status.deadLetters > 0);
  showBanner(status, look, next);
}

function showBanner(status, look, next) {
  const [, , , href, link] = states[status.state] ?? [];
  const isAway = status.deadLetters === undefined;
  const title = isAway ? away[0] : `The consumer is ${status.state}`;
  part(place, "banner").firstElementChild.dataset.look = look;
  setText(
    part(place, "banner-title"), visible(status.reason ? `${title}: ${status.reason}` : `${title}.`),
  );
  setText(part(place, "banner-next"), isAway ? away[1] : next);
  part(place, "banner").hidden = !isAway && !next;
  part(place, "banner-link").hidden = isAway || !next;
  setText(part(place, "banner-link"), link ?? "");
  if (href) part(place, "banner-link").href = href;
}

// Shows that the service does not answer, and since when the page is out of date.
function showStale(problem) {
  const stale = part(place, "now-stale");
  if (problem && stale.hidden) {
    const clock = inZone(now() - (performance.now() - heard))[1].slice(0, 8);
    setText(stale, `${problem} Last known at ${clock} ${isLocal() ? "local time" : "UTC"}.`);
    announce(problem);
  }
  stale.hidden = !problem;
}

async function look() {
  if (isLive || document.hidden || performance.now() - heard < ASK_MS - 100) return;
  const { ok, data, message } = await ask("GET", place.dataset.status);
  if (ok) tellStatus(data);
  else showStale(message.replace("; try again", ""));
}

setInterval(look, ASK_MS);
document.addEventListener("visibilitychange", look);
