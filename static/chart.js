// Charts over time: stacked bars as SVG, in the colours of app.css.

import { element, inZone, isLocal, now, number, setText } from "./common.js";

const HEIGHT = 180; // px, without the legend below the chart
const LEFT = 46; // px, for the labels of counts
const TOP = 8; // px, for the upper half of the highest label
const RIGHT = 16; // px, for half a label of time
const LINE = 14; // px, the height of a line of these labels
const ROOM = 66; // px, at least, from one label of time to the next
const COUNT_ROOM = 24; // px, at least, from one label of a count to the next
const SEEN = 3; // px, at least, the height of a value that is not zero
const WIDEST = 40; // px, of a bar
const DAY = 86_400; // s
const SVG = "http://www.w3.org/2000/svg";

function drawn(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// --- labels of time ---

// Which bars may have a label, from the finest rule to the coarsest: the first bar of every so
// many minutes, days, months or years. `minute` is the minute of the day, `length` a bar's minutes.
const everyMinutes = (n) => ({ minute }, length) => minute % n < length;
const everyDays = (n) => ({ date, minute }, length) => (
  minute < length && (Date.parse(date) / 1_000 / DAY) % n === 0
);
const everyMonths = (n) => ({ date, minute }, length) => (
  minute < length && date.endsWith("-01") && (date.slice(5, 7) - 1) % n === 0
);
const everyYears = (n) => ({ date, minute }, length) => (
  minute < length && date.endsWith("-01-01") && date.slice(0, 4) % n === 0
);
const CLOCKS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720].map(everyMinutes);
const DAYS = [1, 2, 5, 10].map(everyDays);
const MONTHS = [...[1, 3, 6].map(everyMonths), ...[1, 2, 5, 10].map(everyYears)];

// No label comes twice: clocks label at most a day, days at most a year.
function rules(length) {
  if (length <= DAY) return [...CLOCKS, ...DAYS, ...MONTHS];
  return length <= 366 * DAY ? [...DAYS, ...MONTHS] : MONTHS;
}

// A bar of a day is a day of UTC, whatever zone the page shows times in.
function inTime(seconds, step) {
  const time = new Date(seconds * 1_000).toISOString();
  const [date, clock] = step >= DAY ? [time.slice(0, 10), "00:00"] : inZone(time);
  const minute = clock.slice(0, 2) * 60 + Number(clock.slice(3, 5));
  return { date, clock: clock.slice(0, 5), minute };
}

function timeWords(seconds, step) {
  const { date, clock } = inTime(seconds, step);
  return step >= DAY ? date : `${date} ${clock}`;
}

// The indexes of the bars that have a label: the finest rule that leaves room for each.
function labelled(moments, step, slot) {
  for (const rule of rules(moments.length * step)) {
    const found = [...moments.keys()].filter((at) => rule(moments[at], step / 60));
    const fits = found.every((at, n) => !n || (at - found[n - 1]) * slot >= ROOM);
    if (fits && found.length) return found;
  }
  return [0];
}

// The lines of each label: a clock, day, month or year. If the date (or year) differs from that of
// the label before, a second line shows it, unless all labels are of today.
function labelLines(moments, step) {
  const today = inTime(now() / 1_000, step).date;
  const areMidnights = moments.length > 1 && moments.every(({ minute }) => minute === 0);
  const areDays = step >= DAY || areMidnights;
  const areFirsts = (ending) => areDays && moments.every(({ date }) => date.endsWith(ending));
  if (areFirsts("-01-01")) return moments.map(({ date }) => [date.slice(0, 4)]);
  if (areFirsts("-01")) return moments.map(({ date }) => [date.slice(0, 7)]);
  const lines = moments.map(({ date, clock }) => (
    areDays ? [date.slice(5), date.slice(0, 4)] : [clock, date]
  ));
  const areToday = lines.every(([, rest]) => rest === today);
  return lines.map(([word, rest], at) => (
    areToday || rest === lines[at - 1]?.[1] ? [word] : [word, rest]
  ));
}

// --- parts of the drawing, all in px ---

const label = (lines, x, y) => drawn(
  "text",
  { class: "time" },
  ...lines.map((line, n) => drawn("tspan", { x, y: y + n * LINE }, line)),
);

// 1, 2 or 5 times a power of ten, so that the counts up to `top` have room.
function countStep(top, height) {
  const least = Math.max(1, (top * COUNT_ROOM) / height);
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((by) => by * power).find((by) => by >= least);
}

function countLines(top, foot, right) {
  const by = countStep(top, foot - TOP);
  return Array.from({ length: Math.floor(top / by) + 1 }, (_, n) => {
    const y = foot - (n * by * (foot - TOP)) / top;
    const line = drawn("path", { class: "line", d: `M${LEFT} ${y}H${right}` });
    return drawn("g", {}, line, drawn("text", { class: "count", x: LEFT - 8, y }, number(n * by)));
  });
}

// One path for each series, which lies on those before it.
function bars(series, values, { foot, slot, scale }) {
  const width = Math.max(1, Math.min(WIDEST, slot * 0.75));
  const feet = values[0].map(() => foot);
  return series.map(({ tone }, n) => {
    const boxes = values[n].map((value, at) => {
      if (!value) return "";
      const x = LEFT + (at + 0.5) * slot - width / 2;
      feet[at] -= Math.max(SEEN, value * scale);
      return `M${x} ${feet[at]}h${width}V${foot}h${-width}z`;
    });
    const path = drawn("path", { d: boxes.join("") });
    path.style.fill = `var(${tone})`;
    return path;
  }).reverse(); // each series hides the lower part of the one above it
}

// Draws stacked bars over time in `place`, with a legend below: the sums, or the values of the bar
// under the pointer. `series`: [{ label, tone }], lowest first; `tone` names a colour of app.css.
// `data`: [times in Unix seconds, values of each series]. `step`: seconds per bar.
// Returns a function that shows new data.
export function drawBars(place, series, data, step, height = HEIGHT) {
  const plot = drawn("svg", { height, "aria-hidden": "true" });
  const mark = drawn("rect", { class: "mark", y: TOP });
  const { legend, tell } = legendOf(series, step);
  place.replaceChildren(plot, legend);
  let [times, ...values] = data;
  let width = 0;
  let pointed = null; // index of a bar
  const slot = () => (width - LEFT - RIGHT) / times.length;

  const point = (at) => {
    pointed = times[at] === undefined ? null : at;
    mark.setAttribute("x", LEFT + (pointed ?? 0) * slot());
    mark.classList.toggle("shown", pointed !== null);
    tell(times, values, pointed);
  };

  const draw = () => {
    width = place.clientWidth;
    if (!width) return; // nobody can see it
    const moments = times.map((at) => inTime(at, step));
    const chosen = labelled(moments, step, slot());
    const lines = labelLines(chosen.map((at) => moments[at]), step);
    const foot = height - 8 - LINE * Math.max(...lines.map((one) => one.length));
    const totals = times.map((_, at) => values.reduce((sum, one) => sum + one[at], 0));
    const top = Math.max(1, 1.05 * Math.max(...totals));
    plot.setAttribute("width", width);
    mark.setAttribute("width", slot());
    mark.setAttribute("height", foot - TOP);
    plot.replaceChildren(
      mark,
      ...countLines(top, foot, width - RIGHT),
      ...bars(series, values, { foot, slot: slot(), scale: (foot - TOP) / top }),
      ...chosen.map((at, n) => label(lines[n], LEFT + (at + 0.5) * slot(), foot + LINE)),
    );
    point(pointed);
  };

  plot.addEventListener("pointermove", ({ offsetX: x }) => point(Math.floor((x - LEFT) / slot())));
  plot.addEventListener("pointerleave", () => point(null));
  document.addEventListener("zonechange", draw);
  new ResizeObserver(() => {
    if (width !== place.clientWidth) draw();
  }).observe(place);
  draw();
  return (other) => {
    [times, ...values] = other;
    draw();
  };
}

// The legend, and the function that updates it.
function legendOf(series, step) {
  const when = element("span", { class: "when" });
  const legend = element("p", { class: "chart-legend" }, when);
  const sums = series.map(({ label: word, tone }) => {
    const swatch = element("span", { class: "swatch" });
    swatch.style.background = `var(${tone})`;
    const sum = element("strong");
    legend.append(element("span", {}, swatch, `${word} `, sum));
    return sum;
  });
  const tell = (times, values, at) => {
    setText(when, at === null ? "Total" : timeWords(times[at], step));
    for (const [n, sum] of sums.entries()) {
      const counted = at === null ? values[n] : [values[n][at]];
      setText(sum, number(counted.reduce((all, one) => all + one, 0)));
    }
  };
  return { legend, tell };
}
