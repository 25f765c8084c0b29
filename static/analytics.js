// The analytics page: draws its charts from the data in their elements.

import { drawBars } from "./chart.js";

for (const place of document.querySelectorAll("[data-chart]")) {
  const { step, times, values } = JSON.parse(place.dataset.chart);
  const series = [{ label: place.dataset.label, tone: place.dataset.tone }];
  drawBars(place, series, [times, values], step);
}
