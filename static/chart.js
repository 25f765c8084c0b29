// Charts over time: uPlot (a plain script, brought before) in the page's colours.

import { element, inZone, isLocal, now, number, setText } from "./common.js";

const HEIGHT = 180; // px, the legend below not included
const NARROW = 500; // px, below which fewer labels fit
const SEEN = 3; // px: what is not zero is drawn at least so tall
const DAY = 86_400; // s
const LABEL = 32; // px, the width of an axis's label
const AXES = 34; // px, of the labels below, if they have one line
const LINE = 16; // px, of a second one
const MINUTE = 60; // s
const HOUR = 3_600;
// Between two labels of times, in seconds: no two of them within a bar.
const TIMES = [
  ...[1, 2, 5, 10, 15, 30].map((by) => by * MINUTE),
  ...[1, 2, 3, 6, 12].map((by) => by * HOUR),
  ...[1, 2, 3, 5, 7, 10, 15, 30, 60, 90, 180, 365, 730, 1_825, 3_650].map((by) => by * DAY),
];
const INCREMENTS = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7].flatMap((by) => [by, 2 * by, 5 * by]);

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Days are those of UTC, in which they are counted.
function inTime(seconds, step) {
  const time = new Date(seconds * 1_000).toISOString();
  return step >= DAY ? [time.slice(0, 10), ""] : inZone(time);
}

// From one label to the next, so that none is said twice: within a day clocks, within a year days.
function increments([times], step) {
  const length = times.at(-1) - times[0];
  const least = length > 366 * DAY ? 30 * DAY : length > DAY ? DAY : step;
  return TIMES.filter((by) => by >= least);
}

// The labels below: clocks, days, months or years. What is larger stands in a second line where it
// changes, unless it is today.
function tickWords(ticks, step) {
  const times = ticks.map((at) => inTime(at, step));
  const today = inTime(now() / 1_000, step)[0];
  const are = (test) => times.every(([date, clock]) => test(date, clock.slice(0, 5)));
  const areDays = step >= DAY || (ticks.length > 1 && are((_, clock) => clock === "00:00"));
  const areYears = areDays && are((date) => date.endsWith("-01-01"));
  if (areYears) return times.map(([date]) => date.slice(0, 4));
  if (areDays && are((date) => date.endsWith("-01"))) return times.map(([date]) => date.slice(0, 7));
  const parts = times.map(([date, clock]) => (
    areDays ? [date.slice(5), date.slice(0, 4)] : [clock.slice(0, 5), date]
  ));
  const isKnown = parts.every(([, rest]) => rest === today);
  return parts.map(([word, rest], at) => (
    isKnown || rest === parts[at - 1]?.[1] ? word : `${word}\n${rest}`
  ));
}

function timeWords(seconds, step) {
  const [date, clock] = inTime(seconds, step);
  return step >= DAY ? date : `${date} ${clock.slice(0, 5)}`;
}

// What is drawn: each series on top of those before it, the last one first, so that it lies behind.
function stacked([times, ...values], height) {
  const totals = times.map((_, at) => values.reduce((sum, one) => sum + (one[at] ?? 0), 0));
  const least = (Math.max(1, ...totals) * SEEN) / (height - AXES);
  const tops = times.map(() => 0);
  const layers = values.map((one) => one.map((value, at) => {
    if (value) tops[at] += Math.max(value, least);
    return tops[at];
  }));
  return [times, ...layers.reverse()];
}

// Draws stacked bars over time in `place`, and below what they say: the sums, or the bar that is
// pointed at. `series`: [{ label, tone }], lowest first, where `tone` names a colour of app.css;
// `data`: [times in Unix seconds, values of each series]. `step`: seconds per bar.
// Returns the function that shows other data.
export function drawBars(place, series, data, step, height = HEIGHT) {
  let chart = null;
  let latest = data;
  let width = 0;
  const plot = element("div");
  const when = element("span", { class: "when" });
  const keys = series.map(() => ({
    swatch: element("span", { class: "swatch" }),
    value: element("strong"),
  }));
  const legend = element("p", { class: "chart-legend" }, when);
  for (const [n, { label }] of series.entries()) {
    legend.append(element("span", {}, keys[n].swatch, `${label} `, keys[n].value));
  }
  place.replaceChildren(plot, legend);

  const tell = (at) => {
    const [times, ...values] = latest;
    const known = at !== null && at !== undefined && times[at] !== undefined;
    setText(when, known ? timeWords(times[at], step) : "In all");
    for (const [n, { value }] of keys.entries()) {
      const meant = known ? [values[n][at]] : values[n];
      setText(value, number(meant.reduce((sum, one) => sum + (one ?? 0), 0)));
    }
  };

  const axis = (values) => ({
    stroke: colour("--quiet"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { stroke: colour("--line"), width: 1, size: 4 },
    font: "11px system-ui",
    gap: 4,
    ...values,
  });

  const layer = ({ tone }) => ({
    fill: colour(tone),
    width: 0,
    paths: uPlot.paths.bars({ size: [0.75, 40] }),
    points: { show: false },
  });

  const draw = () => {
    chart?.destroy();
    width = place.clientWidth;
    if (!width) return; // it can't be seen
    for (const [n, { tone }] of series.entries()) keys[n].swatch.style.background = colour(tone);
    chart = new uPlot(
      {
        width,
        height,
        padding: [8, LABEL / 2, 0, 0],
        cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
        legend: { show: false },
        hooks: { setCursor: [(made) => tell(made.cursor.left < 0 ? null : made.cursor.idx)] },
        tzDate: (at) => {
          const moment = new Date(at * 1_000);
          return isLocal() && step < DAY ? moment : uPlot.tzDate(moment, "Etc/UTC");
        },
        scales: {
          x: { range: (_, low, high) => [low - step / 2, high + step / 2] },
          y: { range: (_, low, high) => [0, Math.max(1, high * 1.05)] },
        },
        axes: [
          axis({
            size: (_, words) => AXES - 8 + (words?.some((word) => word.includes("\n")) ? LINE : 0),
            grid: { show: false },
            space: width < NARROW ? 70 : 60,
            incrs: increments(latest, step),
            values: (_, ticks) => tickWords(ticks, step),
          }),
          axis({ size: 46, space: 24, incrs: INCREMENTS, values: (_, ticks) => ticks.map(number) }),
        ],
        series: [{}, ...series.map(layer).reverse()],
      },
      stacked(latest, height),
      plot,
    );
    tell(null);
  };

  draw();
  new ResizeObserver(() => {
    if (width !== place.clientWidth) draw();
  }).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  document.addEventListener("zonechange", draw);
  return (other) => {
    latest = other;
    chart?.setData(stacked(other, height));
    tell(chart?.cursor.left >= 0 ? chart.cursor.idx : null);
  };
}
