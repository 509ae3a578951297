// A photograph in patches: a slider over the blocks merges them; a click on a patch shows the token that holds it.
import { choice, drawn, latest, make, short, slider } from "/static/view.js";

export default function show(stage, ask, first, tell) {
  let [found, depth, patch, token] = [first, first.blocks, null, null], image = 0, keep = first.keep;
  const photo = make("img", { alt: "" }), told = make("div", { class: "told", "aria-live": "polite" });
  const canvas = make("canvas", { class: "photo", role: "img", tabindex: "0", "aria-label":
    "The photograph in patches. Click a patch, or move with the arrow keys, to see the token that holds it." });
  const now = () => found.stages.findLast((one) => one.block < depth);
  const number = () => found.stages.indexOf(now());

  const draw = drawn(canvas, (pen, width, height, colour) => {
    const [rows, columns] = found.grid, [w, h] = [width / columns, height / rows], { owner, colours } = now();
    const at = (i) => [(i % columns) * w, Math.floor(i / columns) * h], held = new Map();
    owner.forEach((one) => held.set(one, (held.get(one) ?? 0) + 1));
    if (photo.complete) pen.drawImage(photo, 0, 0, width, height);
    owner.forEach((one, i) => {
      if (held.get(one) === 1) return;  // a patch that is a token of its own is as it was
      pen.fillStyle = `rgb(${colours[one].join(" ")})`;
      const [x, y] = at(i);
      pen.fillRect(x, y, w + 0.5, h + 0.5);
    });
    pen.strokeStyle = colour.paper;
    pen.globalAlpha = 0.65;
    pen.lineWidth = 1;
    pen.beginPath();
    owner.forEach((one, i) => {
      const [x, y] = at(i);
      if ((i + 1) % columns && owner[i + 1] !== one) { pen.moveTo(x + w, y); pen.lineTo(x + w, y + h); }
      if (i + columns < owner.length && owner[i + columns] !== one) { pen.moveTo(x, y + h); pen.lineTo(x + w, y + h); }
    });
    pen.stroke();
    pen.globalAlpha = 1;
    if (patch === null) return;
    token?.made_of.forEach((share, i) => {
      const [x, y] = at(i), part = share / Math.max(...token.made_of);
      pen.globalAlpha = 0.5 * (1 - Math.max(0, part));
      pen.fillStyle = colour.paper;
      pen.fillRect(x, y, w + 0.5, h + 0.5);
      if (share < 0.01) return;
      pen.globalAlpha = 0.35 + 0.65 * Math.sqrt(part);
      pen.strokeStyle = colour.series[1];
      pen.lineWidth = 2;
      pen.strokeRect(x + 1, y + 1, w - 2, h - 2);
    });
    pen.globalAlpha = 1;
    pen.strokeStyle = colour.series[4];
    pen.lineWidth = 3;
    pen.strokeRect(...at(patch), w, h);
  });
  photo.onload = draw;

  const asked = latest(async () => {
    if (patch === null) return;
    const wanted = { image, keep, stage: number(), patch };
    const next = await ask(wanted);
    if (!next) return;
    token = next;
    draw();
    say();
  });
  const again = latest(async () => {
    tell("Merging …");
    const next = await ask({ image, keep });
    if (next) placed(next);
  });
  function say() {
    const { tokens, block } = now(), all = found.stages[0].tokens;
    const where = block < 0 ? "Before any block merges" : `Behind block ${block}`;
    const lines = [`${where}: ${tokens} of ${all} tokens. Merged patches have the mean colour of their token; a patch ` +
                   "that is still a token of its own shows the photograph."];
    if (token && patch !== null) {
      const parts = token.made_of.filter((share) => share > 0.01).length;
      const elsewhere = token.others > 0 ? `; the rest flows into ${token.others} other${token.others > 1 ? "s" : ""}` : "";
      lines.push(`${short(100 * token.share)} % of the chosen patch flows into one token${elsewhere}. That token stands ` +
                 `for ${short(token.mass)} patches; ${parts === 1 ? "one patch makes" : `${parts} patches make`} more than 1 % of it.`);
    } else lines.push("Click a patch to see where it flows.");
    told.replaceChildren(...lines.map((line) => make("p", {}, line)));
  }
  function placed(next) {
    Object.assign(found = { ...found }, next);
    photo.src = found.photo;
    canvas.style.aspectRatio = `${found.grid[1]} / ${found.grid[0]}`;
    token = null;
    say();
    asked();
    draw();
  }
  function pick(i) { patch = i; token = null; draw(); asked(); }
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect(), [rows, columns] = found.grid;
    const cell = (at, size, count) => Math.max(0, Math.min(count - 1, Math.floor((at / size) * count)));
    pick(cell(event.clientY - box.top, box.height, rows) * columns + cell(event.clientX - box.left, box.width, columns));
  });
  canvas.addEventListener("keydown", (event) => {
    const [rows, columns] = found.grid;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    const next = (patch ?? Math.floor(rows / 2) * columns + Math.floor(columns / 2)) + by;
    if (next >= 0 && next < rows * columns) pick(next);
  });
  stage.append(
    make("div", { class: "controls" },
      choice("Photograph", first.names.map((name, i) => [i, name]), (value) => { image = +value; patch = null; again(); }),
      slider("Blocks passed", { min: 0, max: first.blocks, step: 1, value: first.blocks, said: (v) => `${v} of ${first.blocks}` },
             (value) => { depth = value; token = null; draw(); say(); asked(); }),
      slider("Share that stays at each merging", { min: 0.2, max: 1, step: 0.05, value: first.keep, said: short },
             (value) => { keep = value; again(); })),
    make("div", { class: "sides" }, canvas, told));
  if (first.note) stage.append(make("p", { class: "told" }, first.note));
  placed(first);
}
