// An event's page: follows the event until its end, has it tried at once, and turns a page that
// waits for an event into the event's own.

import { announce, ask, byId, isLeaving, part, setText } from "./common.js";
import { works } from "./now.js";

const LOOK_MS = 1_000;
const FRESH_MS = 10_000; // what follows from an event has come by then

const page = byId("event");
const waiting = byId("waiting");

// --- an event that is known ---

const news = {
  text: page && part(page, "text"),
  asked: false, // the operator had it tried: they want to see what came of it

  start() {
    byId("now")?.addEventListener("click", ({ target }) => this.hurry(target));
    if (page.dataset.follow) this.look();
  },

  look() {
    const over = page.dataset.follow === "effects" && performance.now() > FRESH_MS;
    if (!over) setTimeout(() => this.see(), LOOK_MS);
  },

  async see() {
    const found = document.hidden ? null : await ask("GET", page.dataset.source);
    if (isLeaving()) return this.look();
    if (found?.ok) this.compare(found.data);
    else if (found) this.say(`What became of it is not known now. ${found.message}`);
    return this.look();
  },

  compare({ seq, followUps }) {
    const same = seq === Number(page.dataset.seq)
      && followUps.length === Number(page.dataset.followUps);
    if (same) {
      byId("news").hidden = true;
    } else if (this.isRead()) {
      this.say("There is news of this event.", true);
    } else {
      announce("There is news of this event: the page loads anew.");
      location.reload();
    }
  },

  // Whoever marks a text or has the keyboard in the page keeps it as it is.
  isRead() {
    const main = byId("main");
    const at = document.activeElement;
    const inside = main.contains(at) && at !== main && !(this.asked && at === byId("now"));
    return inside || !getSelection().isCollapsed;
  },

  say(text, withLink = false) {
    if (byId("news").hidden) announce(text);
    setText(this.text, text);
    byId("news").querySelector("a").hidden = !withLink;
    byId("news").hidden = false;
  },

  async hurry(button) {
    if (button.getAttribute("aria-disabled") === "true") return;
    button.setAttribute("aria-disabled", "true");
    setText(button, works() ? "Trying…" : "Next in turn");
    byId("now-problem").hidden = true;
    const { ok, message } = await ask("POST", button.dataset.address, {});
    if (ok) {
      this.asked = true;
      announce(works() ? "It is tried now." : "It is tried once the consumer runs.");
      return;
    }
    setText(byId("now-problem"), `It could not be tried now. ${message}`);
    byId("now-problem").hidden = false;
    button.setAttribute("aria-disabled", "false");
    setText(button, "Try now");
  },
};

// --- one that is not ---

async function wait() {
  const found = document.hidden ? null : await ask("GET", waiting.dataset.source);
  if (found?.ok && !isLeaving()) {
    announce("The event is here.");
    location.replace(waiting.dataset.target);
    return;
  }
  const problem = found && !found.ok && found.code !== 404 ? found.message : "";
  setText(byId("waiting-problem"), problem);
  byId("waiting-problem").hidden = !problem;
  setTimeout(wait, LOOK_MS);
}

if (page) news.start();
if (waiting?.dataset.source) wait();
