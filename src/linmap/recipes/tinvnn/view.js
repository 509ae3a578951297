// Drag the shape on the left: the right is its canonical pose, computed anew in every pose of the left.
import { choice, labelled, latest, make, short, slider } from "/static/view.js";
import { pointsCanvas, same } from "/static/points.js";

export default function show(stage, ask, first) {
  const state = { cloud: 0, turn: same(), mirrored: 0, size: 1, shift: 0 };
  const told = make("p", { class: "told", "aria-live": "polite" });
  const left = pointsCanvas({ label: "The shape. Drag it, or use the arrow keys, to turn it; plus and minus zoom.",
                              flat: first.flat, radius: 1.15, onturn: moved, onrest: moved });
  const right = pointsCanvas({ label: "Its canonical pose, which stays as it is.", flat: first.flat, fixed: true });
  let shape = first;

  const figure = (view, text) => make("figure", {}, view.canvas, make("figcaption", {}, text));
  const mirror = make("input", { type: "checkbox", onchange: () => { state.mirrored = +mirror.checked; placed(); } });
  const size = slider("Size", { min: 0.5, max: 1.6, step: 0.05, value: 1, said: (v) => `× ${short(v)}` },
                      (value) => { state.size = value; placed(); });
  const shift = slider("Moved to the side, in radii", { min: -0.5, max: 0.5, step: 0.05, value: 0, said: short },
                       (value) => { state.shift = value; placed(); });
  const back = make("button", { type: "button", class: "small quiet", onclick: () => reset() }, "As it lies in the file");
  stage.append(
    make("div", { class: "controls" },
      choice("Shape", first.names.map((name, i) => [i, name]), (value) => { state.cloud = +value; reset(); }),
      size, shift, labelled("Mirrored", mirror)),
    make("div", { class: "sides" }, figure(left, "The shape as you hold it"), figure(right, "Its canonical pose")),
    make("div", { class: "row" }, back), told);

  const question = () => ({ cloud: state.cloud, turn: left.turn.flat(), mirrored: state.mirrored, size: state.size,
                            shift: [state.shift, 0, 0] });
  const asked = latest(async (wanted) => {
    const found = await ask(wanted);
    if (!found) return;
    if (wanted.cloud !== shape.cloud) placed(false, Object.assign(found, { cloud: wanted.cloud }));
    showPose(found);
  });
  function moved() { asked(question()); }
  function placed(asks = true, of = shape) {
    shape = of;
    const flip = state.mirrored ? -1 : 1;
    left.show([{ points: shape.points.map(([x, y, z]) => [x * flip * state.size, y * state.size, (z ?? 0) * state.size]),
                 series: 0, colours: shape.bands }]);
    left.centre = left.turn.reduce((sum, row, i) => (i ? sum : row.map((v) => -v * state.shift)), [0, 0, 0]);
    left.draw();
    if (asks) asked(question());
  }
  function reset() {
    [state.mirrored, state.size, state.shift, mirror.checked] = [0, 1, 0, false];
    size.set(1);
    shift.set(0);
    left.turn = same();
    left.zoom = 1;
    placed();
  }
  function showPose(found) {
    right.radius = found.size * 1.25;
    right.show([{ points: found.canonical, series: 0, colours: found.bands }]);
    told.textContent = `Largest difference of any of ${found.count} points from the pose in the file: ` +
      `${short(found.difference, 2)} (a standard deviation is about 1).`;
  }
  shape.cloud = 0;
  placed(false);
  showPose(first);
}
