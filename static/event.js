// An event's page: updates until the event is processed or dead, starts its next try, and replaces
// the page that waits for an event with the event's page.

import { announce, ask, byId, isLeaving, part, setText } from "./common.js";
import { works } from "./now.js";

const LOOK_MS = 1_000;
const FRESH_MS = 10_000; // follow-ups of an event arrive within this time

const page = byId("event");
const waiting = byId("waiting");

// --- a known event ---

const news = {
  text: page && part(page, "text"),
  asked: false, // the operator started a try and wants to see its outcome

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
    else if (found) this.say(`The event's current state is unknown. ${found.message}`);
    return this.look();
  },

  compare({ seq, followUps }) {
    const same = seq === Number(page.dataset.seq)
      && followUps.length === Number(page.dataset.followUps);
    if (same) {
      byId("news").hidden = true;
    } else if (this.isRead()) {
      this.say("This event has changed.", true);
    } else {
      announce("This event has changed; reloading the page.");
      location.reload();
    }
  },

  // The page does not reload while text is selected or the focus is inside it.
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
    setText(button, works() ? "Trying…" : "Next in line");
    byId("now-problem").hidden = true;
    const { ok, message } = await ask("POST", button.dataset.address, {});
    if (ok) {
      this.asked = true;
      announce(works() ? "Retrying now." : "It is retried when the consumer runs.");
      return;
    }
    setText(byId("now-problem"), `It could not be tried now. ${message}`);
    byId("now-problem").hidden = false;
    button.setAttribute("aria-disabled", "false");
    setText(button, "Try now");
  },
};

// --- an event that is not processed yet ---

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
