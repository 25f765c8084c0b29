// The page that publishes: checks the event as it is typed, sends it, and updates the code and what
// the demo handler does with it. The code around the event is that of
// jobquest/web/pages/publish.py.

import {
  announce, ask, byId, element, eventUrl, jsonText, many, setText, visible,
} from "./common.js";
import {
  checkAsTyped, firstWrong, inputOf, readEvent, showErrors, type,
} from "./event_form.js";

const page = byId("publish");
const form = byId("form");
const words = JSON.parse(page.dataset.words);

function say(place, ...children) {
  place.replaceChildren(...children);
  place.hidden = !children.length;
}

// --- the same as code ---

const IN_PYTHON = { true: "True", false: "False", null: "None" };
const written = {
  curl: (document) => document.replaceAll("'", "'\\''"),
  python: (document) =>
    document.replace(/"(?:[^"\\]|\\.)*"|true|false|null/g, (word) => IN_PYTHON[word] ?? word),
  typescript: (document) => document.replaceAll('"__proto__":', '["__proto__"]:'),
};

function showCode() {
  const event = jsonText(readEvent(form));
  for (const block of page.querySelectorAll("[data-language]")) {
    const pre = block.querySelector("pre");
    const { before, after } = pre.dataset;
    setText(pre, before + written[block.dataset.language](event) + after);
  }
}

// --- checking ---

function showVerdict({ ok, code, data, errors, message }) {
  const verdict = byId("verdict");
  const wrong = Object.keys(errors ?? {}).length || 1;
  verdict.dataset.look = ok ? "good" : "alarm";
  setText(byId("key"), ok ? visible(data.key) : "–");
  if (ok) setText(verdict, "Valid");
  else if (code === 400) setText(verdict, `${many(wrong, "error")}; see the form.`);
  else setText(verdict, `It could not be checked. ${message}`);
}

// --- publishing ---

// The page makes the id, so that an unconfirmed event can be sent again and counts once.
// (randomUUID does not exist on a plain http address.)
function newId() {
  const bytes = [...crypto.getRandomValues(new Uint8Array(16))];
  return bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function land({ id, topic, partition, offset }) {
  const address = new URL(eventUrl(id), location.href);
  for (const [name, value] of Object.entries({ new: 1, topic, partition, offset })) {
    address.searchParams.set(name, value);
  }
  location.assign(address);
}

const linked = (id) => element("a", { href: eventUrl(id) }, "Show the event");

const outcomes = {
  201: ({ data }) => land(data),
  202: ({ data }) => succeed(
    "Queued: Kafka can't be reached. The event is stored here and sent to Kafka automatically. ", data,
  ),
  200: ({ data }) => succeed(
    "Not published again: an event with this id and content was already processed. ", data,
  ),
  400: (answer) => {
    const { errors = {}, message } = answer;
    showErrors(form, errors, Object.keys(errors).length ? "" : message);
    showVerdict(answer);
    say(byId("problem"), "Not published: correct the errors in the form.");
    firstWrong(form)?.focus();
  },
  409: ({ message }) => {
    showErrors(form, { id: [message] });
    say(byId("problem"), `Not published. ${message} Choose another id, or leave it empty.`);
    firstWrong(form)?.focus();
  },
};

function succeed(text, { id }) {
  say(byId("outcome"), text, linked(id));
}

// It is unknown whether the service received the event.
function unconfirmed({ message }, id) {
  type(inputOf(form, "id"), id);
  const again = `It may have been received. Publish it again with the id ${id}, which is now`
    + " in the form: it counts only once.";
  say(byId("problem"), `Not confirmed. ${message} ${again}`);
}

let sending = false;

async function publish(submitted) {
  submitted.preventDefault();
  if (sending) return;
  showSending(true);
  say(byId("problem"));
  say(byId("outcome"));
  const event = readEvent(form);
  event.id ??= newId();
  const answer = await ask("POST", page.dataset.address, event);
  showSending(false);
  const unknown = answer.code === 0 || answer.code >= 500;
  if (unknown) unconfirmed(answer, event.id);
  else if (outcomes[answer.code]) outcomes[answer.code](answer);
  else say(byId("problem"), `Not published. ${answer.message}`);
}

// The button keeps the focus, so that keyboard users keep their place.
function showSending(now) {
  sending = now;
  byId("send").setAttribute("aria-disabled", String(now));
  setText(byId("send"), now ? "Publishing…" : "Publish");
}

// --- the demo handler ---

// The event's metadata; null if they are not an object, so that nothing can be set in them.
function metadata() {
  const { metadata: found = {} } = readEvent(form);
  return found !== null && typeof found === "object" && !Array.isArray(found) ? found : null;
}

function chooseFate() {
  const { [words.mark]: _, ...others } = metadata() ?? {};
  const chosen = byId("fate").value;
  const members = chosen ? { ...others, [words.mark]: chosen } : others;
  type(inputOf(form, "metadata"), Object.keys(members).length ? jsonText(members) : "");
}

function showFate() {
  if (!byId("fate")) return;
  const found = metadata();
  const asked = found?.[words.mark];
  const chosen = asked in words.fates ? asked : "";
  byId("fate").disabled = found === null;
  byId("fate").value = chosen;
  const asks = chosen ? "The metadata request this." : "";
  setText(byId("fate-note"), found === null ? "The metadata are not an object." : asks);
}

// --- the form ---

function clear() {
  const { userId: _, ...others } = readEvent(form);
  const names = [...Object.keys(others.data).map((name) => `data.${name}`), ...Object.keys(others)];
  for (const name of names) {
    const input = inputOf(form, name);
    if (input) type(input, "");
  }
}

checkAsTyped(form, (event) => ask("POST", `${page.dataset.address}?dryRun=1`, event), showVerdict);
document.addEventListener("input", ({ target }) => {
  if (!form.contains(target)) return;
  say(byId("problem"));
  say(byId("outcome"));
  showCode();
  showFate();
});
form.addEventListener("submit", publish);
form.addEventListener("reset", () => setTimeout(() => type(inputOf(form, "timestamp"), "")));
byId("clear").addEventListener("click", clear);
byId("fate")?.addEventListener("change", chooseFate);
showCode();
showFate();
