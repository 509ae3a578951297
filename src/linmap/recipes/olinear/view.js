// What was observed, the forecasts and their intervals: one series at a time.
import { choice, latest, make, short } from "/static/view.js";
import { chart } from "/static/chart.js";

export default function show(stage, ask, first) {
  let found = first;
  const told = make("p", { class: "told", "aria-live": "polite" });
  const { times, horizon } = first;
  const last = first.forecasts.at(-1);
  const view = chart({ label: "What was observed (black) and what OLinear forecasts (blue), with intervals. Arrow keys " +
    "read values, plus and minus zoom, Home shows everything.", times, onread: read });
  const asked = latest(async (series) => { const next = await ask({ series }); if (next) placed(next); });
  const key = make("p", { class: "told legend" }, make("span", { class: "ink" }, "observed"), make("span", { class: "series" }, "OLinear"),
    ...Object.keys(last.ends).reverse().map((level) => make("span", { class: "band" }, `${level} % interval`)));
  stage.append(
    make("div", { class: "controls" }, choice("Series", first.names.map((name, i) => [i, name]), (value) => asked(+value)), view.buttons),
    key, view.canvas, told);

  function placed(next) {
    found = next;
    const lines = [{ from: 0, values: found.observed, series: -1, width: 1.3 }], bands = [];
    for (const { from, values, ends } of found.forecasts) {
      lines.push({ from, values, series: 0, width: 1.8 });
      for (const [low, high] of Object.values(ends)) bands.push({ from, low, high, series: 0 });
    }
    view.show(lines, bands);
  }
  function read(i) {
    const parts = [], seen = found.observed[i];
    if (seen !== undefined) parts.push(`observed ${short(seen, 4)}`);
    const at = found.forecasts.findLast(({ from, values }) => i >= from && i < from + values.length);
    if (at) {
      const k = i - at.from;
      parts.push(`OLinear, ${k + 1} ahead: ${short(at.values[k], 4)}`);
      for (const [level, [low, high]] of Object.entries(at.ends)) parts.push(`${level} %: ${short(low[k], 4)} to ${short(high[k], 4)}`);
    }
    told.textContent = `${times[i]}: ${parts.join(" · ")}`;
  }
  told.textContent = "Point at a time to read its values; drag to move, use the wheel after a click, or the buttons.";
  placed(first);
  view.see(Math.max(0, first.forecasts[0].from - 2 * horizon), last.from + horizon - 1);
}
