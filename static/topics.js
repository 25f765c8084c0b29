// The page of all topics: updates its numbers while the page is visible. The words are the same as
// in templates/topics.html.

import {
  age, announce, ask, byId, element, number, part, setText, timeElement, visible,
} from "./common.js";
import { tellStatus } from "./now.js";

const REFRESH_MS = 3_000;

const page = byId("topics");
let failing = false;
let timer = null;

const rate = (value) => value === null ? "–" : value.toLocaleString("en-US", {
  minimumFractionDigits: 1, maximumFractionDigits: 1,
});

function setNumber(row, name, value) {
  setText(part(row, name), value === null ? "none" : number(value));
}

// The name of each process by its id. Processes of several hosts may have the same pid.
function names(processes) {
  const hasSeveralHosts = new Set(processes.map((one) => one.host)).size > 1;
  return new Map(processes.map(
    ({ id, host, pid }) => [id, hasSeveralHosts ? `${host}, pid ${pid}` : `pid ${pid}`],
  ));
}

function showPartition(row, one, readers) {
  setNumber(row, "records", one.next - one.first);
  for (const name of ["first", "next", "position", "lag"]) setNumber(row, name, one[name]);
  row.toggleAttribute("data-behind", one.lag > 0);
  const reader = part(row, "reader");
  const link = reader.querySelector("a");
  if (!one.process) {
    if (link) reader.replaceChildren(element("span", { class: "quiet" }, "nobody"));
  } else if (link?.hash !== `#process-${one.process}`) {
    const name = visible(readers.get(one.process) ?? one.process);
    reader.replaceChildren(element("a", { href: `#process-${one.process}` }, name));
  }
}

function showTopic(row, topic) {
  setText(part(row, "rate"), rate(topic.rate));
  setNumber(row, "lag", topic.lag);
  row.toggleAttribute("data-behind", topic.lag > 0);
  setNumber(row, "records", topic.partitions.reduce((sum, one) => sum + one.next - one.first, 0));
}

function processLag({ assignment, lag }) {
  if (!assignment.length) return "–";
  return lag.messages === null ? "unknown" : number(lag.messages);
}

function showProcess(row, process) {
  const badge = part(row, "state").firstElementChild;
  badge.dataset.word = process.state;
  setText(badge, process.state);
  setText(part(row, "reason"), visible(process.reason ?? ""));
  const ago = { class: "age quiet", "data-age": process.heartbeat };
  part(row, "heartbeat").replaceChildren(
    timeElement(process.heartbeat), " ", element("span", ago, age(process.heartbeat)),
  );
  setText(part(row, "lag"), processLag(process));
  setText(part(row, "assignment"), process.assignment.join(", ") || "nothing");
}

// Calls `show` for each row with an item; returns whether there is one row for each item.
function each(selector, name, items, show) {
  const rows = [...page.querySelectorAll(selector)];
  for (const row of rows) {
    const item = items.get(row.dataset[name]);
    if (item) show(row, item);
  }
  return rows.length === items.size && rows.every((row) => items.has(row.dataset[name]));
}

function showAll(topics, status) {
  const readers = names(status.processes);
  const rows = new Map();
  for (const topic of topics) {
    const alone = topic.partitions.length === 1;
    rows.set(topic.name, (row) => {
      showTopic(row, topic);
      if (alone) showPartition(row, topic.partitions[0], readers);
    });
    if (alone) continue;
    for (const one of topic.partitions) {
      rows.set(`${topic.name}/${one.partition}`, (row) => showPartition(row, one, readers));
    }
  }
  const processes = new Map(status.processes.map((one) => [one.id, one]));
  const same = [
    each("[data-row]", "row", rows, (row, show) => show(row)),
    each("[data-process]", "process", processes, showProcess),
  ];
  byId("changed").hidden = same.every(Boolean);
  const asOf = page.querySelector(".list-head time");
  asOf.replaceWith(timeElement(status.timestamp));
}

function say(problem) {
  if (problem) setText(byId("problem"), `These numbers are out of date. ${problem}`);
  byId("problem").hidden = !problem;
  if (failing && !problem) announce("The numbers are up to date again.");
  failing = Boolean(problem);
}

async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return;
  const [topics, status] = await Promise.all(
    [page.dataset.topics, page.dataset.status].map((address) => ask("GET", address)),
  );
  if (topics.ok && status.ok && page.dataset.read === "false") {
    location.reload();
    return;
  }
  if (status.ok) tellStatus(status.data);
  if (topics.ok && status.ok) showAll(topics.data.topics, status.data);
  if (page.dataset.read === "true") say(topics.ok ? status.ok ? null : status.message : topics.message);
  clearTimeout(timer); // another refresh may have started meanwhile
  timer = setTimeout(refresh, REFRESH_MS);
}

document.addEventListener("visibilitychange", refresh);
timer = setTimeout(refresh, REFRESH_MS);
