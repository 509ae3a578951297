// What votes for a class, for a pixel of an image that comes out, or for a word: blue for, orange against.
import { drawn, latest, make, short } from "/static/view.js";

export default function show(stage, ask, first, tell) {
  (first.kind === "text" ? words : pictures)(stage, ask, first, tell);
}

function pictures(stage, ask, first, tell) {
  let [found, cell] = [first, null];
  const told = make("div", { class: "told", "aria-live": "polite" }), isMap = first.kind === "map";
  const [photo, answer] = [make("img", { alt: "" }), make("img", { alt: "" })];
  const size = () => [found.cells.length, found.cells[0].length];
  const votes = picture("The photograph, with what each cell of it adds.", size, (pen, width, height, colour) => {
    pen.globalAlpha = 0.4;
    pen.drawImage(photo, 0, 0, width, height);
    const [rows, columns] = size(), [w, h] = [width / columns, height / rows];
    const most = Math.max(...found.cells.flat().map(Math.abs)) || 1;
    found.cells.forEach((row, i) => row.forEach((vote, j) => {
      pen.globalAlpha = Math.min(1, Math.sqrt(Math.abs(vote) / most));
      pen.fillStyle = colour.series[vote < 0 ? 1 : 0];
      pen.fillRect(j * w, i * h, w + 0.5, h + 0.5);
    }));
    pen.globalAlpha = 1;
    if (cell !== null) boxed(pen, colour, (cell % columns) * w, Math.floor(cell / columns) * h, w, h);
  }, isMap ? null : (row, column) => { cell = row * size()[1] + column; votes.draw(); adds(); });
  const choose = latest(async (question) => {
    tell("Reading …");
    const next = await ask(question);
    if (next) { found = { ...found, ...next }; votes.draw(); outcome?.draw(); say(); adds(); }
  });
  const outcome = isMap && picture("What comes out. Click a pixel, or move with the arrow keys.", () => first.size,
    (pen, width, height, colour) => {
      pen.imageSmoothingEnabled = false;
      pen.drawImage(answer, 0, 0, width, height);
      const [w, h] = [width / first.size[1], height / first.size[0]];
      if (found.at) boxed(pen, colour, found.at[1] * w, found.at[0] * h, w, h);
    }, (row, column) => choose({ at: [row, column] }), () => found.at);
  const list = make("div", { class: "bars", role: "group", "aria-label": "Outputs" });
  const figure = (canvas, text) => make("figure", {}, canvas, make("figcaption", {}, text));
  stage.append(make("div", { class: "sides" },
    isMap ? figure(outcome.canvas, "What comes out: click a pixel") : make("div", {}, list, told),
    figure(votes.canvas, "Blue cells vote for it, orange ones against" + (isMap ? "" : "; click one to see what it adds to each"))));
  if (isMap) stage.append(told);

  const adds = latest(async () => {
    if (isMap) return;
    const of = first.outputs.map((one) => one.target);
    const added = cell === null ? null : (await ask({ of, cell }))?.adds;
    const most = added ? Math.max(...added.map(Math.abs)) || 1 : Math.max(...first.outputs.map((one) => Math.abs(one.value)));
    list.replaceChildren(...first.outputs.map((one, i) => bar(one.name, added ? added[i] : one.value, most,
      one.target === found.target, () => choose({ target: one.target }))));
    list.prepend(make("p", { class: "told" }, added ? "What the chosen cell adds to each:" : "The likeliest classes, by their logits:"));
  });
  function say() {
    const sum = found.cells.flat().reduce((a, b) => a + b, 0);
    told.textContent = `${isMap ? `The output at row ${found.at[0]}, column ${found.at[1]}` : found.name} is ${short(found.value, 4)}: ` +
      `the cells vote ${short(sum, 4)} and the biases add ${short(found.residual, 4)}.`;
  }
  for (const [image, source] of [[photo, first.photo], [answer, first.answer]]) {
    image.onload = () => { votes.draw(); if (outcome) outcome.draw(); };
    if (source) image.src = source;
  }
  say();
  adds();
}

function words(stage, ask, first, tell) {
  let found = first;
  const told = make("p", { class: "told", "aria-live": "polite" }), text = make("p", { class: "words" });
  const list = make("div", { class: "bars", role: "group", "aria-label": "What may stand here" });
  const choose = latest(async (question) => {
    tell("Reading …");
    const next = await ask(question);
    if (next) { found = next; placed(); }
  });
  stage.append(text, told, list);
  function placed() {
    const most = Math.max(...found.votes.map(Math.abs)) || 1, { position } = found;
    const shown = [...first.words, "…"].map((word, i) => {
      const button = make("button", { type: "button", class: "word", "aria-pressed": `${i === position}`,
        disabled: i === 0, onclick: () => choose({ position: i }) }, word.replaceAll("\n", "⏎"));
      if (i < position) {
        const vote = found.votes[i];
        button.style.setProperty("--vote", `${Math.round(75 * Math.abs(vote) / most)}%`);
        button.classList.add(vote < 0 ? "against" : "for");
        button.title = `${vote < 0 ? "" : "+"}${short(vote)}`;
      }
      return button;
    });
    text.replaceChildren(...shown);
    const strongest = [...found.votes.keys()].sort((a, b) => Math.abs(found.votes[b]) - Math.abs(found.votes[a])).slice(0, 3);
    told.textContent = `“${found.name}” here: logit ${short(found.value, 4)}, probability ${short(100 * found.probability)} %. ` +
      `The words before add ${short(found.votes.reduce((a, b) => a + b, 0), 4)}, the biases ${short(found.residual, 3)}. Most: ` +
      strongest.map((i) => `“${first.words[i]}” ${found.votes[i] < 0 ? "" : "+"}${short(found.votes[i])}`).join(", ") + ".";
    const top = Math.max(...found.best.map((one) => one.probability));
    list.replaceChildren(make("p", { class: "told" }, "What the model thinks may stand here, by probability:"),
      ...found.best.map((one) => bar(`“${one.name}”`, one.probability, top, one.target === found.target,
        () => choose({ position, target: one.target }))));
  }
  placed();
}

/** A button with a bar: how much, of the most. */
function bar(name, value, most, pressed, onclick) {
  const part = make("span", { class: value < 0 ? "part against" : "part" });
  part.style.width = `${(100 * Math.abs(value)) / most}%`;
  return make("button", { type: "button", class: "bar quiet", "aria-pressed": `${pressed}`, onclick },
    make("span", { class: "name" }, name), make("span", { class: "track" }, part), make("span", { class: "value" }, short(value)));
}

/** A canvas of rows and columns, of which one is chosen by a click or the arrow keys. */
function picture(label, size, draw, onpick, at = () => null) {
  const canvas = make("canvas", { role: "img", class: "cells", "aria-label": label, tabindex: onpick ? "0" : "-1" });
  canvas.style.aspectRatio = `${size()[1]} / ${size()[0]}`;
  const view = { canvas, draw: drawn(canvas, draw) };
  if (!onpick) return view;
  let place = null;
  const pick = (row, column) => {
    const [rows, columns] = size(), inside = (value, count) => Math.max(0, Math.min(count - 1, value));
    place = [inside(row, rows), inside(column, columns)];
    onpick(...place);
  };
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect(), [rows, columns] = size();
    pick(Math.floor(((event.clientY - box.top) / box.height) * rows), Math.floor(((event.clientX - box.left) / box.width) * columns));
  });
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!by) return;
    event.preventDefault();
    const [row, column] = place ?? at() ?? size().map((count) => Math.floor(count / 2));
    pick(row + by[0], column + by[1]);
  });
  return view;
}

function boxed(pen, colour, x, y, w, h) {
  const room = Math.max(0, (10 - w) / 2);
  for (const [stroke, width] of [["#000", 4], [colour.series[4], 2]]) {
    [pen.strokeStyle, pen.lineWidth] = [stroke, width];
    pen.strokeRect(x - room, y - room, w + 2 * room, h + 2 * room);
  }
}
