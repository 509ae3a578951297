// A signal as it came, and what a state of a few numbers still holds of it.
import { latest, make, short, slider } from "/static/view.js";
import { chart } from "/static/chart.js";

export default function show(stage, ask, first) {
  const { times, signal, most } = first;
  let found = first;
  const told = make("p", { class: "told", "aria-live": "polite" });
  const read = make("p", { class: "told" });
  const view = chart({ label: "Oil temperature (black) and what the state remembers of it (blue). Arrow keys read values, " +
    "plus and minus zoom, Home shows everything.", times, onread: at });
  const asked = latest(async (question) => { const next = await ask(question); if (next) placed(next); });
  const question = () => ({ size: size.range.valueAsNumber, now: now.range.valueAsNumber });
  const size = slider("Numbers that are kept", { min: 1, max: most, step: 1, value: first.size }, () => asked(question()));
  const now = slider("Hours so far", { min: 2, max: times.length, step: 1, value: first.now }, () => asked(question()));
  const key = make("p", { class: "told legend" }, make("span", { class: "ink" }, "what came"), make("span", { class: "series" }, "what is remembered"));
  stage.append(make("div", { class: "controls" }, size, now, view.buttons), key, view.canvas, told, read);

  function placed(next) {
    found = next;
    view.show([{ from: 0, values: signal.slice(0, found.now), series: -1, width: 1 },
               { from: 0, values: found.remembered, series: 0, width: 1.8 }], []);
    told.textContent = `${found.size} ${found.size === 1 ? "number holds" : "numbers hold"} ${found.now} hours; ` +
      `what is missed is ${short(found.missed, 2)} standard deviations.`;
  }
  function at(i) {
    read.textContent = i < found.now ? `${times[i]}: came ${short(signal[i], 4)}, remembered ${short(found.remembered[i], 4)}`
      : `${times[i]}: not yet`;
  }
  placed(first);
}
