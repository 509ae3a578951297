// A slider for each direction; the faces are drawn anew by the generator as one is moved.
import { latest, make, short, slider } from "/static/view.js";

export default function show(stage, ask, first) {
  let seed = first.seed;
  const amounts = first.directions.map(() => 0), { farthest } = first;
  const row = (label) => make("div", { class: "faces", role: "group", "aria-label": label });
  const [plain, moved] = [row("The images as they are"), row("The images, moved")];
  const told = make("p", { class: "told", "aria-live": "polite" });
  const asked = latest(async () => { const found = await ask({ seed, amounts: [...amounts] }); if (found) placed(found); });
  const deviations = (value) => (value ? `${value > 0 ? "+" : ""}${short(value)}` : "0");
  const sliders = first.directions.map(({ more, less, purity, pure, steady }, i) => {
    const field = slider(`${i + 1}.`, { min: -farthest, max: farthest, step: 0.25, value: 0, said: deviations },
                         (value) => { amounts[i] = value; asked(); });
    const ends = pure && less !== more ? [`− ${less}`, `${more} +`] : [`+ ${more}`];
    field.append(make("p", { class: "ends" }, ...ends.map((text) => make("span", {}, text))),
      make("p", { class: "help" }, `${pure ? "" : "Mixed: "}${Math.round(100 * purity)} % of what it changes is one thing` +
        (steady ? "." : ", and not the same way in every image.")));
    return field;
  });
  const act = (text, onclick) => make("button", { type: "button", class: "quiet", onclick }, text);
  stage.append(plain, moved, told,
    make("div", { class: "row" },
      act("All to zero", () => { amounts.fill(0); sliders.forEach((one) => one.set(0)); asked(); }),
      act("Other faces", () => { seed = Math.floor(Math.random() * 1e5); asked(); })),
    make("div", { class: "controls top" }, ...sliders));

  function placed(found) {
    for (const [place, images, what] of [[plain, found.plain, "as it is"], [moved, found.moved, "moved"]])
      place.replaceChildren(...images.map((src, i) => make("img", { src, alt: `Image ${i + 1}, ${what}` })));
    const on = amounts.flatMap((value, i) => (value ? [`${i + 1} by ${deviations(value)}`] : []));
    told.textContent = on.length ? `Below, moved along ${on.join(", ")} standard deviations (seed ${seed}).`
      : `Nothing is moved: both rows are the same images (seed ${seed}).`;
  }
  placed(first);
}
