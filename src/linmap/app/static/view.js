// What views share: elements, questions to the app, the colours of the theme; and each view of a page is opened.

/** An element with attributes, listeners ("onclick") and what stands inside; text is never read as HTML. */
export function make(tag, given = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...inside);
  return made;
}

let labels = 0;

/** A field with its label before it. */
export function labelled(text, field) {
  field.id ||= `view-field-${++labels}`;
  return make("div", { class: "field" }, make("label", { for: field.id }, text), field);
}

/** A choice of [value, text] pairs. */
export function choice(text, pairs, onchange) {
  const select = make("select", { onchange: () => onchange(select.value) });
  select.append(...pairs.map(([value, said]) => make("option", { value: String(value) }, said)));
  const field = labelled(text, select);
  field.select = select;
  return field;
}

/** A slider that says its value behind its label. */
export function slider(text, { min, max, step, value, said = String }, oninput) {
  const shown = make("output", {}, said(value));
  const range = make("input", { type: "range", min: `${min}`, max: `${max}`, step: `${step}`, value: `${value}` });
  const tell = () => { shown.textContent = said(+range.value); };
  range.addEventListener("input", () => { tell(); oninput(+range.value); });
  const field = labelled(text, range);
  field.querySelector("label").append(" ", shown);
  field.range = range;
  field.set = (to) => { range.value = to; tell(); };
  return field;
}

/** The colours of the theme, as they are now. */
export function colours() {
  const style = getComputedStyle(document.documentElement), of = (name) => style.getPropertyValue(name).trim();
  return { ink: of("--ink"), muted: of("--muted"), grid: of("--grid"), paper: of("--paper"), wash: of("--wash"),
           accent: of("--accent"), series: [...Array(8).keys()].map((i) => of(`--series-${i}`)) };
}

/** Call `draw` now, and whenever the size of the canvas or the theme changes, on a canvas of sharp pixels. */
export function drawn(canvas, draw) {
  const again = () => {
    const scale = devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    draw(pen, width, height, colours());
  };
  new ResizeObserver(again).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  return again;
}

/** `work` with the latest question: one at a time, and what came in between is left out. */
export function latest(work) {
  let busy = false, next = null;
  return async function ask(question) {
    if (busy) { next = question; return; }
    busy = true;
    try { await work(question); } finally {
      busy = false;
      if (next !== null) { const then = next; next = null; ask(then); }
    }
  };
}

/** A number as people write it. */
export const short = (value, digits = 3) =>
  value === null ? "–" : Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(1) :
  String(+value.toPrecision(digits)).replace("-", "−");

function opened(section) {
  const said = section.querySelector(".said"), stage = section.querySelector(".stage");
  const tell = (text, wrong = false) => { said.textContent = text; said.classList.toggle("wrong", wrong); };
  /** The app's answer; null where it refused, and then the page says why. */
  const ask = async (question) => {
    try {
      const answer = await fetch(section.dataset.from, {
        method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(question) });
      const found = await answer.json().catch(() => ({ error: "This could not be computed; the app's log says why." }));
      tell(found.error ?? "", Boolean(found.error));
      return found.error ? null : found;
    } catch {
      tell("The app has gone.", true);
      return null;
    }
  };
  return async () => {
    section.querySelector(".open")?.remove();
    tell("Opening …");
    section.setAttribute("aria-busy", "true");
    const [{ default: show }, first] = await Promise.all([import(section.dataset.script), ask({})]);
    section.removeAttribute("aria-busy");
    if (first?.nothing) tell(first.nothing);
    else if (first) show(stage, ask, first, tell);
  };
}

for (const section of document.querySelectorAll("section.view")) {
  const open = opened(section);
  if ("atOnce" in section.dataset) open();
  else section.querySelector(".open").addEventListener("click", open);
}
