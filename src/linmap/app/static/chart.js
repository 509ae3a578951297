// Lines and bands over numbered times: zoomed by wheel, buttons and keys, moved by dragging, read off by pointing.
import { drawn, make, short } from "./view.js";

const [LEFT, RIGHT, TOP, BOTTOM, LEAST] = [56, 12, 12, 26, 6];

/**
 * A chart with `lines` { from, values, series, width } and `bands` { from, low, high, series }; series -1 is ink.
 *
 * Options: label, times (texts), onread(i) when a time is pointed at.
 */
export function chart({ label, times, onread }) {
  const canvas = make("canvas", { role: "img", class: "chart", tabindex: "0", "aria-label": label });
  const whole = [0, times.length - 1];
  const view = { canvas, lines: [], bands: [], range: [...whole], at: null };
  const place = (width) => (i) => LEFT + ((i - view.range[0]) / (view.range[1] - view.range[0])) * (width - LEFT - RIGHT);

  view.draw = drawn(canvas, (pen, width, height, colour) => {
    const x = place(width), [low, high] = extent(view);
    const y = (value) => TOP + ((high - value) / (high - low)) * (height - TOP - BOTTOM);
    pen.font = "12px system-ui, sans-serif";
    axes(pen, width, height, colour, times, view.range, x, y, low, high);
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, 0, width - LEFT - RIGHT, height - BOTTOM);
    pen.clip();
    for (const band of view.bands) {
      pen.fillStyle = colour.series[band.series];
      pen.globalAlpha = 0.17;
      pen.beginPath();
      band.high.forEach((value, i) => pen.lineTo(x(band.from + i), y(value)));
      [...band.low.keys()].reverse().forEach((i) => pen.lineTo(x(band.from + i), y(band.low[i])));
      pen.fill();
    }
    pen.globalAlpha = 1;
    for (const line of view.lines) {
      pen.strokeStyle = line.series < 0 ? colour.ink : colour.series[line.series];
      pen.lineWidth = line.width ?? 1.6;
      pen.beginPath();
      let on = false;
      line.values.forEach((value, i) => {
        if (value === null) on = false;
        else { pen[on ? "lineTo" : "moveTo"](x(line.from + i), y(value)); on = true; }
      });
      pen.stroke();
    }
    if (view.at !== null) marked(pen, height, colour, view, x, y);
    pen.restore();
  });

  view.see = (from, to) => {
    const span = Math.max(LEAST, Math.min(to - from, whole[1])), start = Math.max(0, Math.min(from, whole[1] - span));
    view.range = [start, start + span];
    view.draw();
  };
  view.zoom = (by, around = view.at ?? (view.range[0] + view.range[1]) / 2) =>
    view.see(around - (around - view.range[0]) * by, around + (view.range[1] - around) * by);
  view.read = (i) => {
    view.at = Math.max(0, Math.min(whole[1], Math.round(i)));
    if (view.at < view.range[0] || view.at > view.range[1]) {
      const half = (view.range[1] - view.range[0]) / 2;
      view.see(view.at - half, view.at + half);
    }
    view.draw();
    onread?.(view.at);
  };
  view.show = (lines, bands) => { Object.assign(view, { lines, bands }); view.draw(); if (view.at !== null) onread?.(view.at); };
  pointed(view, whole);
  const button = (text, said, act) => make("button", { type: "button", class: "quiet", "aria-label": said, onclick: act }, text);
  view.buttons = make("div", { class: "row", role: "group", "aria-label": "Zoom" },
    button("+", "Nearer", () => view.zoom(0.6)), button("−", "Farther", () => view.zoom(1 / 0.6)),
    button("←", "Earlier", () => view.see(view.range[0] - (view.range[1] - view.range[0]) / 3, view.range[1] - (view.range[1] - view.range[0]) / 3)),
    button("→", "Later", () => view.see(view.range[0] + (view.range[1] - view.range[0]) / 3, view.range[1] + (view.range[1] - view.range[0]) / 3)),
    button("All", "Everything", () => view.see(...whole)));
  return view;
}

function pointed(view, whole) {
  const { canvas } = view;
  const time = (event) => {
    const box = canvas.getBoundingClientRect(), inside = box.width - LEFT - RIGHT;
    return view.range[0] + ((event.clientX - box.left - LEFT) / inside) * (view.range[1] - view.range[0]);
  };
  let held = null;
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); held = time(event); });
  canvas.addEventListener("pointermove", (event) => {
    if (held === null) return view.read(Math.max(view.range[0], Math.min(view.range[1], time(event))));
    const by = held - time(event);
    view.see(view.range[0] + by, view.range[1] + by);
  });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, (event) => {
      held = null;
      if (name === "pointerup") view.read(Math.max(view.range[0], Math.min(view.range[1], time(event))));
    });
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;  // the page scrolls until the chart is chosen
    event.preventDefault();
    view.zoom(Math.exp(event.deltaY * 0.0012), time(event));
  }, { passive: false });
  const step = (by) => view.read((view.at ?? view.range[1]) + by);
  const keys = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), PageUp: () => step(-24), PageDown: () => step(24),
                 "+": () => view.zoom(0.7), "=": () => view.zoom(0.7), "-": () => view.zoom(1 / 0.7), Home: () => view.see(...whole) };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
}

/** The lowest and the highest of what lies in sight, with some room. */
function extent(view) {
  let [low, high] = [Infinity, -Infinity];
  for (const { from, values } of [...view.lines, ...view.bands.flatMap((b) => [{ from: b.from, values: b.low }, { from: b.from, values: b.high }])]) {
    const stop = Math.min(values.length, Math.ceil(view.range[1]) - from + 1);
    for (let i = Math.max(0, Math.floor(view.range[0]) - from); i < stop; i++) {
      if (values[i] !== null) [low, high] = [Math.min(low, values[i]), Math.max(high, values[i])];
    }
  }
  if (low > high) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - room, high + room];
}

function axes(pen, width, height, colour, times, range, x, y, low, high) {
  const raw = (high - low) / 5, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  pen.strokeStyle = colour.grid;
  pen.fillStyle = colour.muted;
  [pen.lineWidth, pen.textAlign, pen.textBaseline] = [1, "right", "middle"];
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) {
    pen.beginPath();
    pen.moveTo(LEFT, y(tick));
    pen.lineTo(width - RIGHT, y(tick));
    pen.stroke();
    pen.fillText(short(Math.abs(tick) < step / 1e6 ? 0 : tick, 4), LEFT - 8, y(tick));
  }
  const apart = pen.measureText(times[Math.round(range[0])] ?? "").width + 40;
  const count = Math.max(1, Math.min(6, Math.floor((width - LEFT) / apart)));
  [pen.textAlign, pen.textBaseline] = ["center", "alphabetic"];
  for (let k = 0; k < count; k++) {
    const i = Math.round(range[0] + ((k + 0.5) / count) * (range[1] - range[0]));
    pen.fillText(times[i] ?? "", x(i), height - 8);
  }
}

function marked(pen, height, colour, view, x, y) {
  pen.strokeStyle = colour.muted;
  pen.lineWidth = 1;
  pen.setLineDash([3, 3]);
  pen.beginPath();
  pen.moveTo(x(view.at), 0);
  pen.lineTo(x(view.at), height - BOTTOM);
  pen.stroke();
  pen.setLineDash([]);
  for (const { from, values, series } of view.lines) {
    const value = values[view.at - from];
    if (value === undefined || value === null) continue;
    pen.fillStyle = series < 0 ? colour.ink : colour.series[series];
    pen.beginPath();
    pen.arc(x(view.at), y(value), 3.5, 0, 7);
    pen.fill();
  }
}
