"use strict";
// A small WebGL viewer for teeth: one buffer a tooth, poses from a schedule, orbit by mouse, touch and keys.
(() => {
  const data = JSON.parse(document.getElementById("case").textContent);
  const byId = (id) => document.getElementById(id);
  const canvas = byId("view"), slider = byId("stage"), note = byId("stage-note");
  const state = { proposal: 0, stage: 0, picked: null, ghost: true, jaw: "both", yaw: 0, pitch: 0.12, zoom: 1 };
  const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;

  // -- poses ----------------------------------------------------------------------------------------------------------

  function pose(tooth, index, stage) {
    const plan = data.proposals[state.proposal];
    const share = plan.progress[stage][index];
    const [x, y, z] = plan.turns[index].map((value) => value * share);
    const angle = Math.hypot(x, y, z) || 1e-12, s = Math.sin(angle / 2) / angle, w = Math.cos(angle / 2);
    const [a, b, c] = [x * s, y * s, z * s];
    const p = tooth.center.map((value, axis) => value + share * plan.shifts[index][axis]);
    p[1] += tooth.upper ? data.apart : -data.apart;
    return new Float32Array([
      1 - 2 * (b * b + c * c), 2 * (a * b + c * w), 2 * (a * c - b * w), 0,
      2 * (a * b - c * w), 1 - 2 * (a * a + c * c), 2 * (b * c + a * w), 0,
      2 * (a * c + b * w), 2 * (b * c - a * w), 1 - 2 * (a * a + b * b), 0,
      p[0], p[1], p[2], 1,
    ]);
  }

  // -- drawing --------------------------------------------------------------------------------------------------------

  const gl = canvas.getContext("webgl", { antialias: true, alpha: false });
  if (!gl) { byId("no-webgl").hidden = false; canvas.hidden = true; }
  const VERTEX = `attribute vec3 at, up; uniform mat4 pose, eye; uniform float aspect, zoom; varying vec3 normal;
    void main() {
      vec4 p = eye * pose * vec4(at, 1.0);
      normal = mat3(eye) * mat3(pose) * up;
      float d = 170.0, f = zoom * min(5.4, 4.6 * aspect);
      gl_Position = vec4(f * p.x / aspect, f * p.y, -p.z * 0.4, d - p.z);
    }`;
  const FRAGMENT = `precision mediump float; varying vec3 normal; uniform vec4 colour; uniform float flat_;
    void main() {
      vec3 n = normalize(normal);
      float light = 0.42 + 0.5 * max(dot(n, normalize(vec3(0.25, 0.45, 0.85))), 0.0) + 0.12 * n.y;
      float shine = pow(max(dot(n, normalize(vec3(0.12, 0.25, 1.0))), 0.0), 40.0) * 0.22;
      gl_FragColor = vec4(mix(colour.rgb * light + shine, colour.rgb, flat_), colour.a);
    }`;

  function program() {
    const made = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    gl.useProgram(made);
    return made;
  }

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

  function buffers(tooth) {
    const short = new Int16Array(bytes(tooth.vertices)), faces = new Uint16Array(bytes(tooth.faces));
    const points = Float32Array.from(short, (value) => value * tooth.scale), normals = new Float32Array(points.length);
    for (let f = 0; f < faces.length; f += 3) {
      const [i, j, k] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
      const u = [0, 1, 2].map((c) => points[j + c] - points[i + c]), v = [0, 1, 2].map((c) => points[k + c] - points[i + c]);
      const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
      for (const corner of [i, j, k]) for (let c = 0; c < 3; c++) normals[corner + c] += n[c];
    }
    const make = (target, values) => {
      const buffer = gl.createBuffer();
      gl.bindBuffer(target, buffer);
      gl.bufferData(target, values, gl.STATIC_DRAW);
      return buffer;
    };
    return { points: make(gl.ARRAY_BUFFER, points), normals: make(gl.ARRAY_BUFFER, normals),
             faces: make(gl.ELEMENT_ARRAY_BUFFER, faces), count: faces.length };
  }

  let shader, places, meshes;
  if (gl) {
    shader = program();
    places = Object.fromEntries(["pose", "eye", "aspect", "zoom", "colour", "flat_"].map((n) => [n, gl.getUniformLocation(shader, n)]));
    meshes = data.teeth.map(buffers);
    gl.enable(gl.DEPTH_TEST);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
  }

  function rgb(name) {
    const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
  }

  function eye() {
    const [cy, sy, cp, sp] = [Math.cos(state.yaw), Math.sin(state.yaw), Math.cos(state.pitch), Math.sin(state.pitch)];
    const rows = [[cy, 0, -sy], [-sp * sy, cp, -sp * cy], [cp * sy, sp, cp * cy]];
    const m = new Float32Array(16);
    rows.forEach((row, r) => { row.forEach((value, c) => { m[4 * c + r] = value; });
      m[12 + r] = -(row[0] * data.middle[0] + row[1] * data.middle[1] + row[2] * data.middle[2]); });
    m[15] = 1;
    return m;
  }

  const shown = (tooth) => state.jaw === "both" || (state.jaw === "upper") === tooth.upper;

  function one(index, matrix, colour, flat) {
    const mesh = meshes[index];
    gl.uniformMatrix4fv(places.pose, false, matrix);
    gl.uniform4fv(places.colour, colour);
    gl.uniform1f(places.flat_, flat);
    for (const [name, buffer] of [["at", mesh.points], ["up", mesh.normals]]) {
      const slot = gl.getAttribLocation(shader, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(slot);
      gl.vertexAttribPointer(slot, 3, gl.FLOAT, false, 0, 0);
    }
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, mesh.faces);
    gl.drawElements(gl.TRIANGLES, mesh.count, gl.UNSIGNED_SHORT, 0);
  }

  function frame(background) {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    gl.viewport(0, 0, width, height);
    gl.clearColor(...background, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniformMatrix4fv(places.eye, false, eye());
    gl.uniform1f(places.aspect, width / height);
    gl.uniform1f(places.zoom, state.zoom * 30 / data.size);
  }

  function paint() {
    if (!gl) return;
    frame(rgb("--stage"));
    const enamel = rgb("--enamel"), fixed = rgb("--held"), accent = rgb("--accent");
    gl.disable(gl.BLEND);
    data.teeth.forEach((tooth, i) => {
      if (!shown(tooth)) return;
      const colour = tooth.fdi === state.picked ? accent : tooth.fixed ? fixed : enamel;
      one(i, pose(tooth, i, state.stage), [...colour, 1], 0);
    });
    if (!state.ghost || state.stage === 0) return;
    gl.enable(gl.BLEND);
    gl.depthMask(false);
    const ghost = rgb("--ghost");
    data.teeth.forEach((tooth, i) => { if (shown(tooth)) one(i, pose(tooth, i, 0), [...ghost, 0.18], 0.35); });
    gl.depthMask(true);
  }

  let waiting = false;
  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; paint(); });
  }

  function pick(event) {
    if (!gl) return;
    frame([0, 0, 0]);
    gl.disable(gl.BLEND);
    data.teeth.forEach((tooth, i) => { if (shown(tooth)) one(i, pose(tooth, i, state.stage), [(i + 1) / 255, 0, 0, 1], 1); });
    const box = canvas.getBoundingClientRect(), pixel = new Uint8Array(4);
    const x = (event.clientX - box.left) / box.width * canvas.width;
    const y = (1 - (event.clientY - box.top) / box.height) * canvas.height;
    gl.readPixels(Math.floor(x), Math.floor(y), 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
    choose(pixel[0] ? data.teeth[pixel[0] - 1].fdi : null);
    paint();
  }

  // -- the page -------------------------------------------------------------------------------------------------------

  function choose(fdi) {
    state.picked = fdi === state.picked ? null : fdi;
    for (const row of document.querySelectorAll("#movements tbody tr")) {
      row.classList.toggle("picked", Number(row.dataset.fdi) === state.picked);
    }
    const told = data.proposals[state.proposal].rows.find((row) => row[0] === state.picked);
    byId("picked").textContent = told ? `Tooth ${told[0]}: ${told[told.length - 1]}` : "Choose a tooth to read its movement.";
    draw();
  }

  function goTo(stage) {
    const plan = data.proposals[state.proposal], last = plan.progress.length - 1;
    state.stage = Math.max(0, Math.min(last, stage));
    slider.max = last;
    slider.value = state.stage;
    const place = state.stage === 0 ? "Before" : state.stage === last ? `After (stage ${last} of ${last})` : `Stage ${state.stage} of ${last}`;
    const deep = plan.collisions.filter((one) => one[0] === state.stage).map((one) => `${one[1]}–${one[2]} ${one[3].toFixed(2)} mm`);
    note.textContent = place + (deep.length ? `; teeth collide on the way: ${deep.join(", ")}` : "");
    slider.setAttribute("aria-valuetext", note.textContent);
    draw();
  }

  function show(number) {
    state.proposal = number;
    const plan = data.proposals[number], body = document.querySelector("#movements tbody");
    body.replaceChildren(...plan.rows.map((cells) => {
      const row = document.createElement("tr");
      row.dataset.fdi = cells[0];
      cells.forEach((cell, place) => {
        const made = document.createElement(place ? "td" : "th");
        if (!place) made.scope = "row";
        made.textContent = typeof cell === "number" && place ? cell.toFixed(place <= 3 || place === 7 ? 2 : 1) : cell;
        if (typeof cell === "number") made.className = "number";
        row.append(made);
      });
      return row;
    }));
    byId("movements-title").textContent = `Movement of each tooth, proposal ${number + 1}`;
    for (const row of document.querySelectorAll("#proposals tbody tr")) {
      row.classList.toggle("picked", Number(row.dataset.number) === number);
    }
    const picked = state.picked;
    state.picked = null;
    choose(picked);
    goTo(plan.progress.length - 1);
  }

  const VIEWS = { front: [0, 0.12], right: [-1.25, 0.1], left: [1.25, 0.1], upper: [0, -1.45], lower: [0, 1.45] };
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => {
      [state.yaw, state.pitch] = VIEWS[button.dataset.view];
      state.zoom = 1;
      if (button.dataset.jaw) byId("jaw").value = state.jaw = button.dataset.jaw;
      draw();
    });
  }
  for (const input of document.querySelectorAll("input[name=proposal]")) {
    input.addEventListener("change", () => show(Number(input.value)));
  }
  byId("jaw").addEventListener("change", (event) => { state.jaw = event.target.value; draw(); });
  byId("ghost").addEventListener("change", (event) => { state.ghost = event.target.checked; draw(); });
  slider.addEventListener("input", () => { stop(); goTo(Number(slider.value)); });
  document.querySelector("#movements tbody").addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) choose(Number(row.dataset.fdi));
  });

  let timer = null;
  function stop() { clearInterval(timer); timer = null; byId("play").textContent = "Play"; }
  byId("play").addEventListener("click", () => {
    if (timer) { stop(); return; }
    const last = data.proposals[state.proposal].progress.length - 1;
    if (state.stage === last) goTo(0);
    byId("play").textContent = "Stop";
    timer = setInterval(() => { goTo(state.stage + 1); if (state.stage >= last) stop(); }, reduced ? 700 : Math.max(60, 3000 / last));
  });

  const fingers = new Map();
  let moved = 0, spread = 0;
  const gap = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (fingers.size === 1) moved = 0;
    if (fingers.size === 2) spread = gap();
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const [dx, dy] = [event.clientX - before.x, event.clientY - before.y];
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    moved += Math.abs(dx) + Math.abs(dy);
    if (fingers.size === 2) { const now = gap(); zoom(now / spread); spread = now; } else turn(-dx * 0.008, dy * 0.008);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (event) => {
      if (name === "pointerup" && fingers.size === 1 && moved < 5) pick(event);
      fingers.delete(event.pointerId);
    });
  }
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;  // the page scrolls until the view is chosen
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 0.001));
  }, { passive: false });
  const turn = (yaw, pitch) => { state.yaw += yaw; state.pitch = Math.max(-1.55, Math.min(1.55, state.pitch + pitch)); draw(); };
  const zoom = (by) => { state.zoom = Math.max(0.5, Math.min(6, state.zoom * by)); draw(); };
  const KEYS = { ArrowLeft: () => turn(0.1, 0), ArrowRight: () => turn(-0.1, 0), ArrowUp: () => turn(0, 0.1),
                 ArrowDown: () => turn(0, -0.1), "+": () => zoom(1.15), "=": () => zoom(1.15), "-": () => zoom(1 / 1.15),
                 ",": () => goTo(state.stage - 1), ".": () => goTo(state.stage + 1) };
  canvas.addEventListener("keydown", (event) => { const act = KEYS[event.key]; if (act) { event.preventDefault(); act(); } });

  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => location.reload());
  show(0);
})();
