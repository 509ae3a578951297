// Points in space on a canvas, in perspective: turned by dragging or by the arrow keys, nearer by plus and minus.
import { drawn, make } from "./view.js";

const [EYE, KEY] = [4, 0.12];  // distance of the eye in radii of what is shown; radians of an arrow key

/** The product of two 3 x 3 matrices, row by row. */
export const times = (A, B) => A.map((row) => [0, 1, 2].map((j) => row[0] * B[0][j] + row[1] * B[1][j] + row[2] * B[2][j]));
export const same = () => [[1, 0, 0], [0, 1, 0], [0, 0, 1]];

/** The turn of a drag by so many radians to the right and down; in the plane only the first counts. */
export function turnOf(right, down, flat = false) {
  const [c, s, a, b] = [Math.cos(right), Math.sin(right), Math.cos(down), Math.sin(down)];
  if (flat) return [[c, -s, 0], [s, c, 0], [0, 0, 1]];
  return times([[1, 0, 0], [0, a, -b], [0, b, a]], [[c, 0, s], [0, 1, 0], [-s, 0, c]]);
}

/**
 * A canvas with `groups` of points: { points: [[x, y, z]], series, strength, picked }, x to the right and y up.
 *
 * Options: label, flat (in the plane), radius and centre of what is shown, fixed (cannot be turned), onturn(matrix) on
 * the way and onrest(matrix) at the end.
 */
export function pointsCanvas({ label, flat = false, radius = 1, centre = [0, 0, 0], fixed = false, dot = 2.4, onturn, onrest }) {
  const canvas = make("canvas", { role: "img", class: "points", "aria-label": label, tabindex: fixed ? "-1" : "0" });
  const view = { canvas, turn: same(), zoom: 1, groups: [], radius, centre };
  view.draw = drawn(canvas, (pen, width, height, colour) => {
    const size = 0.42 * Math.min(width, height) * view.zoom, seen = [];
    for (const group of view.groups) {
      for (const [i, point] of group.points.entries()) {
        const at = [0, 1, 2].map((j) => ((point[j] ?? 0) - (view.centre[j] ?? 0)) / view.radius);
        const [x, y, z] = view.turn.map((row) => row[0] * at[0] + row[1] * at[1] + row[2] * at[2]);
        const near = flat ? 1 : EYE / (EYE - z);
        if (near > 0 && near < 9) seen.push([z, width / 2 + x * size * near, height / 2 - y * size * near, near, group, i]);
      }
    }
    seen.sort((a, b) => a[0] - b[0]);
    for (const [z, x, y, near, group, i] of seen) {
      pen.fillStyle = group.series < 0 ? colour.muted : colour.series[(group.colours?.[i] ?? group.series) % 8];
      pen.globalAlpha = (group.strength ?? 1) * (flat ? 1 : Math.max(0.3, Math.min(1, 0.72 + 0.4 * z)));
      pen.beginPath();
      pen.arc(x, y, dot * near * (group.size ?? 1) * Math.sqrt(view.zoom), 0, 7);
      pen.fill();
    }
    pen.globalAlpha = 1;
  });
  view.show = (groups) => { view.groups = groups; view.draw(); };
  view.set = (turn) => { view.turn = turn; view.draw(); };
  if (!fixed) movable(view, flat, onturn, onrest);
  return view;
}

function movable(view, flat, onturn, onrest) {
  const { canvas } = view;
  const turn = (right, down) => { view.set(times(turnOf(right, down, flat), view.turn)); onturn?.(view.turn); };
  const zoom = (by) => { view.zoom = Math.max(0.5, Math.min(6, view.zoom * by)); view.draw(); };
  let before = null;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    before = [event.clientX, event.clientY];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!before) return;
    const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]], box = canvas.getBoundingClientRect();
    if (flat) {  // the angle that the pointer goes round the middle
      const angle = ([x, y]) => Math.atan2(box.top + box.height / 2 - y, x - box.left - box.width / 2);
      turn(angle([event.clientX, event.clientY]) - angle(before), 0);
    } else turn(dx * 0.008, dy * 0.008);
    before = [event.clientX, event.clientY];
  });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, () => { if (before) onrest?.(view.turn); before = null; });
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;  // the page scrolls until the view is chosen
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 0.001));
  }, { passive: false });
  const keys = { ArrowLeft: () => turn(-KEY, 0), ArrowRight: () => turn(KEY, 0), ArrowUp: () => turn(0, -KEY),
                 ArrowDown: () => turn(0, KEY), "+": () => zoom(1.15), "=": () => zoom(1.15), "-": () => zoom(1 / 1.15) };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
    onrest?.(view.turn);
  });
}
