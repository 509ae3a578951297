// Teeth as points: a proposal, a slider from before to after, and teeth that can be switched on and off.
import { choice, labelled, latest, make, slider } from "/static/view.js";
import { pointsCanvas, turnOf } from "/static/points.js";

export default function show(stage, ask, first) {
  let [found, proposal, patient, part] = [first, 0, first.patient, 1];
  const hidden = new Set();
  let jaw = null;  // true: the upper one alone
  const told = make("p", { class: "told", "aria-live": "polite" });
  const view = pointsCanvas({ label: "The teeth. Drag, or use the arrow keys, to turn; plus and minus zoom.", radius: first.radius * 0.9, dot: 1.9 });
  view.turn = turnOf(-0.5, 0.35);
  view.zoom = 1.5;
  view.canvas.classList.add("wide");
  const ghost = make("input", { type: "checkbox", checked: true, onchange: draw });
  const asked = latest(async (question) => { const next = await ask(question); if (next) { found = next; placed(); } });
  const jaws = [true, false].map((upper) => make("div", { class: "teeth", role: "group", "aria-label": upper ? "Upper teeth" : "Lower teeth" }));
  const views = [["Front", null, 0, 0], ["From the right", null, 1.3, 0.1], ["Upper arch", true, 0, -1.45], ["Lower arch", false, 0, 1.45]];
  const numbers = (count, word) => [...Array(count).keys()].map((i) => [i, `${word} ${i + 1}`]);
  const controls = make("div", { class: "controls" },
    choice("Proposal", numbers(first.proposals, "proposal"), (value) => { proposal = +value; asked({ proposal, ...whose() }); }),
    slider("From before to after", { min: 0, max: 1, step: 0.02, value: 1, said: (v) => (v === 0 ? "before" : v === 1 ? "after" : `${Math.round(100 * v)} %`) },
           (value) => { part = value; draw(); }),
    labelled("Places before, in grey", ghost));
  if (first.patients) {
    controls.prepend(make("div", {}, make("button", { type: "button", class: "small quiet", onclick: () => {
      patient = Math.floor(Math.random() * first.patients);
      asked({ proposal, patient });
    } }, "Another simulated patient")));
  }
  stage.append(controls,
    make("div", { class: "row" }, ...views.map(([text, only, ...by]) => make("button", { type: "button", class: "quiet", onclick: () => { jaw = only; view.turn = turnOf(...by); draw(); } }, text))),
    view.canvas, ...jaws, told);

  const whose = () => (first.patients ? { patient } : {});
  const between = (tooth) => tooth.before.map((point, i) => point.map((value, j) => value + part * (tooth.after[i][j] - value)));
  function draw() {
    const there = found.teeth.filter((tooth) => !hidden.has(tooth.fdi) && (jaw === null || tooth.upper === jaw));
    const before = ghost.checked && part > 0 ? there.map((tooth) => ({ points: tooth.before, series: -1, strength: 0.35, size: 0.8 })) : [];
    view.show([...before, ...there.map((tooth) => ({ points: between(tooth), series: tooth.upper ? 0 : 2 }))]);
  }
  function placed() {
    view.radius = found.radius * 0.9;
    const button = (tooth) => make("button", { type: "button", class: "quiet", "aria-pressed": `${!hidden.has(tooth.fdi)}`,
      title: tooth.words, onclick: (event) => {
        hidden[hidden.has(tooth.fdi) ? "delete" : "add"](tooth.fdi);
        event.currentTarget.setAttribute("aria-pressed", `${!hidden.has(tooth.fdi)}`);
        told.textContent = `Tooth ${tooth.fdi}: ${tooth.words}.`;
        draw();
      } }, `${tooth.fdi}`);
    for (const [i, upper] of [true, false].entries())
      jaws[i].replaceChildren(...found.teeth.filter((tooth) => tooth.upper === upper).map(button));
    const moved = found.teeth.filter((tooth) => tooth.words !== "stays").length;
    told.textContent = `${moved} of ${found.teeth.length} teeth move. Choose a tooth to switch it on or off and to read its movement. ` +
      "For research; no medical device.";
    draw();
  }
  placed();
}
