// The page of compare.py: a viewer with a slider, a plot of the scores of each image, tables.
// Each image is a data URI in a <script type="text/plain">, decoded when it is first shown.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888"];
const MAX_ZOOM = 32;
const byId = (id) => document.getElementById(id);

function element(tag, properties = {}, children = []) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function fillSelect(select, entries, chosen) {
  select.replaceChildren(
    ...entries.map(([value, text]) => element("option", { value, textContent: text })),
  );
  if (chosen !== undefined) select.value = chosen;
}

function scoreText(version) {
  return data.metrics
    .filter((metric) => metric.name in version.scores)
    .map((metric) => version.scores[metric.name].toFixed(metric.digits))
    .join(" / ");
}

// ------------------------------------------------------------------ viewer

const decoded = new Map(); // index of a version's data: image

function loadImage(version) {
  if (!decoded.has(version.source)) {
    const image = new Image();
    image.src = byId("picture-" + version.source).textContent.trim();
    decoded.set(version.source, image);
  }
  return decoded.get(version.source);
}

const view = { zoom: 1, x: 0.5, y: 0.5 }; // x, y: center, as a fraction of the image
let current = null; // entry of data.images

const versionOf = (label) => current.versions.find((version) => version.label === label);

function clampView() {
  view.zoom = Math.min(Math.max(view.zoom, 1), MAX_ZOOM);
  const half = 0.5 / view.zoom;
  view.x = Math.min(Math.max(view.x, half), 1 - half);
  view.y = Math.min(Math.max(view.y, half), 1 - half);
}

// Place the image of every pane so that the center of the view is in the middle of the pane.
function placeImages() {
  clampView();
  for (const pane of document.querySelectorAll(".pane")) {
    const width = pane.clientWidth;
    const height = (width * current.height) / current.width;
    pane.style.height = height + "px";
    const node = pane.firstElementChild;
    if (!node) continue;
    const scale = (width * view.zoom) / current.width;
    const left = width / 2 - view.x * width * view.zoom;
    const top = height / 2 - view.y * height * view.zoom;
    node.style.width = current.width + "px";
    node.style.height = current.height + "px";
    node.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    pane.classList.toggle("pixelated", scale * devicePixelRatio >= 2);
  }
  byId("images").classList.toggle("zoomed", view.zoom > 1);
  byId("zoom-level").textContent = (Math.round(view.zoom * 10) / 10).toString() + "×";
}

function zoomAt(factor, pane, clientX, clientY) {
  const box = pane.getBoundingClientRect();
  const before = view.zoom;
  view.zoom = Math.min(Math.max(before * factor, 1), MAX_ZOOM);
  // the point under the pointer stays where it is
  const shift = 1 / before - 1 / view.zoom;
  view.x += ((clientX - box.left) / box.width - 0.5) * shift;
  view.y += ((clientY - box.top) / box.height - 0.5) * shift;
  placeImages();
}

function addPointerControl(pane) {
  const pointers = new Map(); // id: [x, y]
  const distance = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a[0] - b[0], a[1] - b[1]);
  };
  pane.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    pane.setPointerCapture(event.pointerId);
  });
  pane.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const before = pointers.size === 2 ? distance() : 0;
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (pointers.size === 2) {
      zoomAt(distance() / Math.max(before, 1), pane, event.clientX, event.clientY);
    } else if (view.zoom > 1) {
      view.x -= (event.clientX - last[0]) / (pane.clientWidth * view.zoom);
      view.y -= (event.clientY - last[1]) / (pane.clientHeight * view.zoom);
      placeImages();
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    pane.addEventListener(name, (event) => pointers.delete(event.pointerId));
  }
  pane.addEventListener("dblclick", (event) => zoomAt(2, pane, event.clientX, event.clientY));
}

function addWheelControl(node) {
  node.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomAt(event.deltaY < 0 ? 1.25 : 0.8, node, event.clientX, event.clientY);
  }, { passive: false });
}

function pixelsOf(image) {
  const canvas = element("canvas", { width: current.width, height: current.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

// Draw gain * |left - right| into a canvas.
async function drawDifference(left, right) {
  const shown = current;
  await Promise.all([left, right].map((image) => image.decode()));
  if (shown !== current) return; // another image was chosen meanwhile
  const [a, b] = [pixelsOf(left), pixelsOf(right)];
  const gain = Number(byId("gain").value);
  for (let i = 0; i < a.data.length; i++) {
    if (i % 4 !== 3) a.data[i] = gain * Math.abs(a.data[i] - b.data[i]);
  }
  const canvas = element("canvas", { width: a.width, height: a.height });
  canvas.getContext("2d").putImageData(a, 0, 0);
  byId("pane-difference").replaceChildren(canvas);
  placeImages();
}

const copyOf = (image) => element("img", { src: image.src, alt: "", draggable: false });

function captionOf(version) {
  const score = element("span", { className: "score", textContent: scoreText(version) });
  return [version.label + " ", score];
}

function showPair() {
  const sides = ["left", "right"].map((side) => versionOf(byId(side).value));
  const isDifference = byId("difference").checked;
  byId("slider").hidden = isDifference;
  byId("pane-difference").hidden = !isDifference;
  byId("gain-label").hidden = !isDifference;
  ["left", "right"].forEach((side, i) => {
    byId("pane-" + side).replaceChildren(copyOf(loadImage(sides[i])));
    byId("caption-" + side).replaceChildren(...captionOf(sides[i]));
  });
  if (isDifference) {
    byId("pane-difference").replaceChildren();
    drawDifference(loadImage(sides[0]), loadImage(sides[1]));
  }
  placeImages();
}

function showGrid() {
  byId("grid").replaceChildren(
    ...current.versions.map((version) => {
      const pane = element("div", { className: "pane" }, [copyOf(loadImage(version))]);
      addPointerControl(pane);
      return element("figure", {}, [pane, element("figcaption", {}, captionOf(version))]);
    }),
  );
}

function showImage(index) {
  const former = current;
  current = data.images[index];
  byId("image").value = index;
  const labels = current.versions.map((version) => [version.label, version.label]);
  // keep the chosen methods; at first the first and the last one, without HR if there are two
  const methods = current.versions.filter((version) => !version.isHr);
  const shown = methods.length > 1 ? methods : current.versions;
  const defaults = [shown[0].label, shown[shown.length - 1].label];
  ["left", "right"].forEach((side, i) => {
    const chosen = former && versionOf(byId(side).value) ? byId(side).value : defaults[i];
    fillSelect(byId(side), labels, chosen);
  });
  if (!former || former.width !== current.width || former.height !== current.height) {
    Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
  }
  // an image is never taller than most of the window
  const width = Math.min(1280, (0.75 * innerHeight * current.width) / current.height);
  byId("viewer").style.maxWidth = Math.max(width, 280) + "px";
  showGrid();
  showPair();
}

function startViewer() {
  if (!data.images.length) return;
  byId("images").hidden = false;
  const titles = data.images.map((image, i) => [i, image.title]);
  fillSelect(byId("image"), titles, 0);
  const step = (by) => {
    const count = data.images.length;
    showImage((Number(byId("image").value) + by + count) % count);
  };
  byId("image").addEventListener("change", () => showImage(Number(byId("image").value)));
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  for (const id of ["left", "right", "difference"]) byId(id).addEventListener("change", showPair);
  byId("swap").addEventListener("click", () => {
    const right = byId("right").value;
    byId("right").value = byId("left").value;
    byId("left").value = right;
    showPair();
  });
  byId("gain").addEventListener("input", () => {
    byId("gain-value").textContent = byId("gain").value;
    showPair();
  });
  for (const [id, factor] of [["zoom-in", 1.5], ["zoom-out", 1 / 1.5], ["zoom-fit", 0]]) {
    byId(id).addEventListener("click", () => {
      view.zoom *= factor;
      placeImages();
    });
  }
  for (const side of ["left", "right", "difference"]) addPointerControl(byId("pane-" + side));
  addWheelControl(byId("slider"));
  addWheelControl(byId("pane-difference"));
  addEventListener("resize", placeImages);
  showImage(0);
}

// -------------------------------------------------------------------- plot

function svg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// Return round numbers that cover a range, five at most.
function ticksOf(low, high) {
  const rough = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((candidate) => candidate >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9 * step; i++) ticks.push(i * step);
  return [ticks, Math.max(0, -Math.floor(Math.log10(step)))];
}

// Return {label: [value or null of each image]} of a metric, less those of a reference.
function valuesOf(metric, reference) {
  const table = {};
  for (const label of data.methods) {
    if (label === reference) continue;
    table[label] = data.images.map((image) => {
      const find = (name) => image.versions.find((version) => version.label === name);
      const own = find(label)?.scores[metric.name];
      const other = reference ? find(reference)?.scores[metric.name] : 0;
      return own === undefined || other === undefined ? null : own - other;
    });
  }
  return table;
}

function drawPlot() {
  const metric = data.metrics.find((candidate) => candidate.name === byId("metric").value);
  const reference = byId("reference").value;
  const table = valuesOf(metric, reference);
  const labels = Object.keys(table);
  const all = Object.values(table).flat().filter((value) => value !== null);
  if (reference) all.push(0);
  const indices = data.images.map((_, i) => i);
  const main = table[labels[labels.length - 1]];
  if (byId("order").value === "value") indices.sort((a, b) => (main[a] ?? 0) - (main[b] ?? 0));
  let [low, high] = [Math.min(...all), Math.max(...all)];
  const margin = 0.06 * (high - low || 1);
  [low, high] = [low - margin, high + margin];

  const plot = byId("plot");
  const box = { left: 56, right: 12, top: 12, bottom: 76, height: 320 };
  const width = Math.max(plot.clientWidth, box.left + box.right + 18 * indices.length);
  const inner = [width - box.left - box.right, box.height - box.top - box.bottom];
  const xOf = (i) => box.left + ((i + 0.5) * inner[0]) / indices.length;
  const yOf = (value) => box.top + ((high - value) / (high - low)) * inner[1];
  const root = svg("svg", { width, height: box.height, role: "img" });
  const [ticks, digits] = ticksOf(low, high);
  for (const tick of ticks) {
    const y = yOf(tick);
    root.append(svg("line", { class: "axis", x1: box.left, x2: width - box.right, y1: y, y2: y }));
    const place = { x: box.left - 6, y: y + 4, "text-anchor": "end" };
    root.append(svg("text", place, tick.toFixed(digits)));
  }
  indices.forEach((image, i) => {
    const x = xOf(i);
    const y = box.height - box.bottom + 14;
    root.append(svg("line", { class: "axis", x1: x, x2: x, y1: box.top, y2: y - 14 }));
    const place = { x, y, "text-anchor": "end", transform: `rotate(-45 ${x} ${y})` };
    root.append(svg("text", place, data.images[image].name.slice(0, 14)));
    labels.forEach((label, k) => {
      const value = table[label][image];
      if (value === null) return;
      const fill = COLORS[data.methods.indexOf(label) % COLORS.length];
      const point = svg("circle", { class: "point", cx: x, cy: yOf(value), r: 4.5, fill });
      const text = `${data.images[image].name}, ${label}: ${value.toFixed(metric.digits + 1)}`;
      point.append(svg("title", {}, text));
      point.addEventListener("click", () => {
        showImage(image);
        byId("images").scrollIntoView();
      });
      root.append(point);
    });
  });
  plot.replaceChildren(root);
  byId("legend").replaceChildren(
    ...labels.map((label) => {
      const entry = element("span", { textContent: label });
      entry.style.setProperty("--color", COLORS[data.methods.indexOf(label) % COLORS.length]);
      return entry;
    }),
  );
}

function startPlot() {
  const scored = data.metrics.filter((metric) =>
    data.images.some((image) => image.versions.some((v) => metric.name in v.scores)),
  );
  if (!scored.length) return;
  byId("scores").hidden = false;
  fillSelect(byId("metric"), scored.map((metric) => [metric.name, metric.title]));
  const gains = data.methods.map((label) => [label, `gain over ${label}`]);
  fillSelect(byId("reference"), [["", "score"], ...gains], data.methods.length > 1 ? gains[0][0] : "");
  for (const id of ["metric", "reference", "order"]) byId(id).addEventListener("change", drawPlot);
  addEventListener("resize", drawPlot);
  drawPlot();
}

// ------------------------------------------------------------------- table

// Compare two cells: numbers before texts, a value of null last in both directions.
function compareCells(a, b, isUp) {
  if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
  const [x, y] = [a.value ?? a.text, b.value ?? b.text];
  let order = typeof x === "number" ? -1 : 1;
  if (typeof x === typeof y) order = typeof x === "number" ? x - y : x.localeCompare(y, "en", { numeric: true });
  return isUp ? order : -order;
}

function buildTable({ columns, rows }) {
  const body = element("tbody");
  const lines = rows.map((row) => {
    const cells = row.map((cell, i) =>
      element(i ? "td" : "th", { textContent: cell.text, className: cell.rank || "" }),
    );
    return { row, node: element("tr", {}, cells) };
  });
  const heads = columns.map((text, i) => {
    const head = element("th", { textContent: text, tabIndex: 0, scope: "col" });
    const sort = () => {
      // names from A to Z at first, numbers from the highest
      const former = head.getAttribute("aria-sort");
      const isUp = former ? former === "descending" : i === 0;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
      lines.sort((a, b) => compareCells(a.row[i], b.row[i], isUp));
      body.append(...lines.map(({ node }) => node));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
    return head;
  });
  body.append(...lines.map(({ node }) => node));
  return element("table", {}, [element("thead", {}, [element("tr", {}, heads)]), body]);
}

function startTables() {
  byId("tables").hidden = !data.tables.length;
  for (const table of data.tables) {
    const hint = (text) => element("p", { className: "hint", textContent: text });
    byId("tables").append(
      element("h3", { textContent: table.title }),
      element("div", { className: "scroll" }, [buildTable(table)]),
      ...table.notes.map((note) => hint(note + ".")),
    );
  }
}

startViewer();
startPlot();
startTables();
