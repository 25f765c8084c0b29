// Charts over time: uPlot (loaded before as a plain script) in the page's colours.

import { inZone } from "./common.js";

const HEIGHT = 180; // px
const NARROW = 500; // px, below which fewer labels fit

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function hoursMinutes(seconds, step) {
  const [date, clock] = inZone(new Date(seconds * 1_000).toISOString());
  return step >= 86_400 ? date.slice(5) : clock.slice(0, 5);
}

// Draws bars over time in `place`. `series`: [{ label, tone }], where `tone` names a colour of
// app.css; `data`: [times in Unix seconds, values of each series]. `step`: seconds per bar.
// Returns the function that shows other data.
export function drawBars(place, series, data, step) {
  let chart = null;
  let latest = data;

  const axis = (values) => ({
    stroke: colour("--quiet"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { stroke: colour("--line"), width: 1 },
    font: "12px system-ui",
    ...values,
  });

  const draw = () => {
    chart?.destroy();
    const width = place.clientWidth;
    chart = new uPlot(
      {
        width,
        height: HEIGHT,
        padding: [8, 12, 0, 0],
        cursor: { y: false, drag: { x: false, y: false } },
        legend: { live: true },
        scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
        axes: [
          axis({ values: (_, ticks) => ticks.map((at) => hoursMinutes(at, step)), space: width < NARROW ? 70 : 60 }),
          axis({ size: 56, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6, 1e7] }),
        ],
        series: [
          { label: "Time", value: (_, at) => (at === null ? "–" : inZone(new Date(at * 1_000).toISOString()).join(" ").slice(0, 16)) },
          ...series.map(({ label, tone }) => ({
            label,
            stroke: colour(tone),
            fill: colour(tone),
            paths: uPlot.paths.bars({ size: [0.8, 40] }),
            points: { show: false },
            value: (_, value) => (value === null ? "–" : value.toLocaleString("en-US")),
          })),
        ],
      },
      latest,
      place,
    );
  };

  draw();
  new ResizeObserver(() => {
    if (chart.width !== place.clientWidth) draw();
  }).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  document.addEventListener("zonechange", draw);
  return (other) => {
    latest = other;
    chart.setData(other);
  };
}
