// A dead letter's page: checks the edited value as it is typed, saves, redrives and discards it.

import { announce, ask, byId, element, setOrRemove, setText, visible } from "./common.js";
import { checkAsTyped, firstWrong, readEvent, showErrors } from "./event_form.js";
import { discard, endWork, isWorking, redrive } from "./redrive.js";
import { refresh } from "./refresh.js";

const CHECK_MS = 300;
const FRESH_MS = 3_000;

const page = byId("dead-letter");
const form = byId("edit-form"); // absent if the dead letter can't be edited
const deadLetter = { id: Number(page.dataset.id), eventId: page.dataset.event };

// --- the two editors: `read` returns the value, `complain` shows the errors of an answer ---

const fields = {
  start(check) {
    checkAsTyped(form, check, judge);
  },
  read: () => readEvent(form),
  complain({ errors, message }) {
    showErrors(form, errors ?? {}, errors ? "" : message);
    firstWrong(form)?.focus();
  },
};

const text = {
  timer: null,
  asked: 0,

  start(check) {
    const checkNow = async () => {
      if (!byId("edit-text")) return; // meanwhile it was redriven
      this.asked += 1;
      const mine = this.asked;
      const answer = await check(this.read());
      if (mine !== this.asked || !byId("edit-text")) return; // the text is newer, or gone
      this.show(answer);
      judge(answer);
    };
    byId("edit-text").addEventListener("input", () => {
      this.asked += 1;
      clearTimeout(this.timer);
      this.timer = setTimeout(checkNow, CHECK_MS);
    });
    checkNow();
  },

  read: () => byId("edit-text").value,

  show({ ok, errors = {} }) {
    const lines = Object.entries(errors).map(([path, its]) => {
      const name = path.replace(/^value\.?/, "");
      const where = name ? [element("code", {}, visible(name)), ": "] : [];
      return element("li", {}, ...where, visible(its.join(" ")));
    });
    const list = byId("edit-problems");
    list.replaceChildren(...lines);
    list.hidden = !lines.length;
    setOrRemove(byId("edit-text"), "aria-invalid", ok || !lines.length ? null : "true");
  },

  complain(answer) {
    this.show(answer);
    byId("edit-text").focus();
  },
};

const editor = byId("edit-text") ? text : fields;
const patch = (value, query = "") => ask("PATCH", form.dataset.url + query, { value });

function judge({ ok, code, message }) {
  if (!byId("edit-verdict")) return; // meanwhile it was redriven
  const verdict = ok ? "Valid: it can be saved." : message;
  setText(byId("edit-verdict"), code === 400 ? "It would fail again: see the errors." : verdict);
}

// Returns whether the value was saved.
async function save() {
  const answer = await patch(editor.read());
  judge(answer);
  if (!answer.ok) {
    editor.complain(answer);
    return false;
  }
  setText(byId("edit-verdict"), "Saved. Redrive it to process it.");
  await refresh();
  return true;
}

async function redriveIt() {
  byId("refusal").hidden = true;
  const run = await redrive(`Redriving dead letter ${deadLetter.id}`, [deadLetter], refresh);
  const [reason] = run?.reasons ?? [];
  if (reason) {
    setText(byId("refusal"), `It was not redriven. ${reason}`);
    byId("refusal").hidden = false;
  }
}

let isBusy = false;

// One action at a time: a second press does nothing.
async function alone(action) {
  if (isBusy || isWorking()) return;
  isBusy = true;
  await action();
  isBusy = false;
}

async function keepFresh() {
  if (!document.hidden && !isWorking()) await refresh();
  setTimeout(keepFresh, FRESH_MS);
}

const ACTIONS = {
  redrive: () => alone(redriveIt),
  discard: () => discard([deadLetter.id], refresh),
  save: () => alone(save),
  example(button) {
    const area = byId("edit-text");
    area.value = button.dataset.text;
    area.dispatchEvent(new Event("input", { bubbles: true }));
    area.focus();
    announce("The text is now an example.");
  },
  "end-work": () => endWork(),
};

document.addEventListener("click", ({ target }) => {
  const button = target.closest?.("[data-action]");
  if (button) ACTIONS[button.dataset.action]?.(button);
});

setTimeout(keepFresh, FRESH_MS);
if (form) {
  form.addEventListener("submit", (submission) => {
    submission.preventDefault();
    alone(async () => (await save()) && redriveIt());
  });
  editor.start((value) => patch(value, "?dryRun=1"));
}
