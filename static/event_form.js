// The form for one event (templates/_event_form.html), for the pages that publish and edit.
//
// readEvent(form): the event as it is typed, { eventType or type, userId, data, … }.
//
// showErrors(form, errors, rest): shows `errors` (path → lines, as the API answers) at their
// fields, and on top those that belong to no field and the line `rest`. {} clears them.
//
// firstWrong(form): the first input that is wrong, uncovered, to focus it; or null.
//
// inputOf(form, path): the input of a field ("userId", "data.xpEarned"); or undefined.
//
// type(input, text): sets an input's text, as if it were typed.
//
// checkAsTyped(form, check, checked): calls check(event), which answers what ask() does, once now
// and a moment after each change. Shows the errors of a 400, clears them if the answer is ok, and
// calls checked(answer, event); an older answer never comes after a newer one. Returns a function
// that checks at once.
//
// `form` is any element around the fields. Empty optional fields are left out; a value that does not
// fit its field is kept as it was typed, so that the service says what is wrong. Paths may begin
// with "value.", as those of a dead letter's edited value do.

import { announce, element, isLocal, many, part, setOrRemove, setText } from "./common.js";

const CHECK_MS = 300; // after the last key

// --- reading ---

const MISSING = Symbol("missing");

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function readTime(input) {
  const moment = new Date(isLocal() ? input.value : `${input.value}Z`);
  return Number.isNaN(moment.getTime()) ? input.value : moment.toISOString();
}

function readList(text) {
  return text.split("\n").filter((line) => line.trim());
}

function readField(field) {
  const input = part(field, "input");
  if (input.validity.badInput) return input.value; // nobody can read what is typed there
  if (field.dataset.control === "list" && input.required) return readList(input.value);
  if (input.value === "") return MISSING;
  const readers = {
    json: () => parsed(input.value),
    list: () => readList(input.value),
    number: () => Number(input.value),
    time: () => readTime(input),
  };
  const read = readers[field.dataset.control];
  return read ? read() : input.value;
}

const fieldsOf = (form) => [...form.querySelectorAll(".event-form .field")];

function members(fields, inside) {
  return fields
    .filter((field) => field.dataset.inside === inside)
    .map((field) => [JSON.parse(field.dataset.name), readField(field)])
    .filter(([, value]) => value !== MISSING);
}

export function readEvent(form) {
  const { type, typeMember } = form.querySelector(".event-form").dataset;
  const fields = fieldsOf(form);
  const envelope = members(fields, "");
  const data = Object.fromEntries(members(fields, "data"));
  // fromEntries, as a member may be called __proto__.
  return Object.fromEntries([[typeMember, type], ["data", data], ...envelope]);
}

function pathOf(field) {
  const name = JSON.parse(field.dataset.name);
  return field.dataset.inside ? `${field.dataset.inside}.${name}` : name;
}

export function inputOf(form, path) {
  const field = fieldsOf(form).find((one) => pathOf(one) === path);
  return field && part(field, "input");
}

export function type(input, text) {
  input.value = text;
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

// --- showing what is wrong ---

// The lines of each field, and those of none: `data.tags.0` is said at `data.tags`.
function sorted(fields, errors) {
  const found = new Map(fields.map((field) => [pathOf(field), []]));
  const rest = [];
  for (const [given, lines] of Object.entries(errors)) {
    const path = given.replace(/^value\./, "");
    const at = path.startsWith("data.") ? path.split(".").slice(0, 2).join(".") : path;
    const own = found.get(path) ?? found.get(at);
    const below = path.slice(at.length + 1);
    const where = /^\d+$/.test(below) ? `Entry ${Number(below) + 1}` : below;
    if (!own) rest.push(`${path}: ${lines.join(" ")}`);
    else own.push(found.has(path) ? lines.join(" ") : `${where}: ${lines.join(" ")}`);
  }
  return { found, rest };
}

export function showErrors(form, errors, rest = "") {
  const fields = fieldsOf(form);
  const { found, rest: others } = sorted(fields, errors);
  for (const field of fields) {
    const lines = found.get(pathOf(field));
    const wrong = part(field, "wrong");
    if (lines.length && wrong.hidden) uncover(field); // the operator may cover it again
    setText(wrong, lines.join(" "));
    wrong.hidden = !lines.length;
    setOrRemove(part(field, "input"), "aria-invalid", lines.length ? "true" : null);
  }
  const problems = part(form, "problems");
  const lines = [...(rest ? [rest] : []), ...others];
  problems.replaceChildren(...lines.map((line) => element("p", {}, line)));
  problems.hidden = !lines.length;
  count(form, Object.keys(errors).length + (rest ? 1 : 0));
}

const uncover = (element) => element.closest("details")?.setAttribute("open", "");

export function firstWrong(form) {
  const found = form.querySelector('[aria-invalid="true"]');
  if (found) uncover(found);
  return found;
}

// Announced if the number changes, not at each key.
function count(form, errors) {
  const before = Number(form.dataset.errors ?? 0);
  form.dataset.errors = String(errors);
  if (errors !== before) announce(errors ? `${many(errors, "error")} in the form.` : "No errors.");
}

// --- checking while it is typed ---

export function checkAsTyped(form, check, checked) {
  let timer = null;
  let asked = 0;

  async function checkNow() {
    clearTimeout(timer);
    asked += 1;
    const mine = asked;
    const event = readEvent(form);
    const answer = await check(event);
    if (mine !== asked) return;
    if (answer.ok) showErrors(form, {});
    else if (answer.code === 400) showErrors(form, answer.errors ?? {}, restOf(answer));
    checked(answer, event);
  }

  // On the document, after common.js has read the times.
  document.addEventListener("input", ({ target }) => {
    if (!form.contains(target)) return;
    asked += 1; // what is on its way is about an older text
    clearTimeout(timer);
    timer = setTimeout(checkNow, CHECK_MS);
  });
  checkNow();
  return checkNow;
}

// The answer's line, where no field says more.
const restOf = ({ errors, message }) => (Object.keys(errors ?? {}).length ? "" : message);
