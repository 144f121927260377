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

// ------------------------------------------------------------------ viewer

const view = { zoom: 1, x: 0.5, y: 0.5 }; // x, y: center, as a fraction of the image
let current = null; // entry of data.images

const versionOf = (label) => current.versions.find((version) => version.label === label);

function imageOf(version) {
  const src = byId("picture-" + version.source).textContent;
  return element("img", { src, alt: "", draggable: false });
}

function captionOf(version) {
  const scores = data.metrics
    .filter((metric) => metric.name in version.scores)
    .map((metric) => version.scores[metric.name].toFixed(metric.digits));
  return `${version.label} ${scores.join(" / ")}`;
}

// Place the images of every pane so that the center of the view is in the middle of the pane.
function placeImages() {
  const half = 0.5 / view.zoom;
  view.x = Math.min(Math.max(view.x, half), 1 - half);
  view.y = Math.min(Math.max(view.y, half), 1 - half);
  for (const pane of document.querySelectorAll(".pane")) {
    const width = pane.getBoundingClientRect().width;
    const height = (width * current.height) / current.width;
    pane.style.height = height + "px";
    const scale = (width * view.zoom) / current.width;
    const left = width / 2 - view.x * width * view.zoom;
    const top = height / 2 - view.y * height * view.zoom;
    for (const image of pane.children) {
      image.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    }
    pane.classList.toggle("pixelated", scale * devicePixelRatio >= 2);
  }
  byId("images").classList.toggle("zoomed", view.zoom > 1);
  byId("zoom-level").textContent = view.zoom.toFixed(1) + "×";
}

// Zoom; the point of a pane at (x, y), as fractions of its size, stays where it is.
function zoomBy(factor, x = 0.5, y = 0.5) {
  const before = view.zoom;
  view.zoom = Math.min(Math.max(before * factor, 1), MAX_ZOOM);
  view.x += (x - 0.5) * (1 / before - 1 / view.zoom);
  view.y += (y - 0.5) * (1 / before - 1 / view.zoom);
  placeImages();
}

// Let the pointer move the image of a pane.
function addPointerControl(pane) {
  let last = null; // event
  pane.addEventListener("pointerdown", (event) => {
    last = event;
    pane.setPointerCapture(event.pointerId);
  });
  pane.addEventListener("pointermove", (event) => {
    if (!event.buttons || event.pointerId !== last?.pointerId) return;
    view.x -= (event.clientX - last.clientX) / (pane.clientWidth * view.zoom);
    view.y -= (event.clientY - last.clientY) / (pane.clientHeight * view.zoom);
    last = event;
    placeImages();
  });
}

function zoomByWheel(event) {
  event.preventDefault();
  const box = event.currentTarget.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  zoomBy(event.deltaY < 0 ? 1.25 : 0.8, x / box.width, y / box.height);
}

// Show the two chosen versions in the slider, or their difference.
function showPair() {
  const versions = ["left", "right"].map((side) => versionOf(byId(side).value));
  const isDifference = byId("difference").checked;
  byId("slider").hidden = isDifference;
  byId("pane-difference").hidden = !isDifference;
  byId("pane-difference").replaceChildren(...versions.map(imageOf)); // page.css subtracts them
  ["left", "right"].forEach((side, i) => {
    byId("pane-" + side).replaceChildren(imageOf(versions[i]));
    byId("caption-" + side).textContent = captionOf(versions[i]);
  });
  placeImages();
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
  if (former?.width !== current.width || former?.height !== current.height) {
    Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
  }
  // an image is never taller than most of the window
  const width = Math.min(1280, (0.75 * innerHeight * current.width) / current.height);
  byId("viewer").style.maxWidth = Math.max(width, 280) + "px";
  const figures = current.versions.map((version) => {
    const pane = element("div", { className: "pane" }, [imageOf(version)]);
    addPointerControl(pane);
    return element("figure", {}, [pane, element("figcaption", {}, [captionOf(version)])]);
  });
  byId("grid").replaceChildren(...figures);
  showPair();
}

function startViewer() {
  if (!data.images.length) return;
  byId("images").hidden = false;
  fillSelect(byId("image"), data.images.map((image, i) => [i, image.title]));
  byId("image").addEventListener("change", () => showImage(byId("image").value));
  for (const id of ["left", "right", "difference"]) byId(id).addEventListener("change", showPair);
  for (const [id, factor] of [["zoom-in", 1.5], ["zoom-out", 1 / 1.5], ["zoom-fit", 0]]) {
    byId(id).addEventListener("click", () => zoomBy(factor));
  }
  for (const side of ["left", "right", "difference"]) addPointerControl(byId("pane-" + side));
  for (const id of ["slider", "pane-difference"]) {
    byId(id).addEventListener("wheel", zoomByWheel, { passive: false });
  }
  addEventListener("resize", placeImages);
  showImage(0);
}

// -------------------------------------------------------------------- plot

function svg(tag, attributes, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}

// Return {label: [value or null of each image]} of a metric, less those of a reference.
function valuesOf(metric, reference) {
  const table = {};
  for (const label of data.methods.filter((method) => method !== reference)) {
    table[label] = data.images.map((image) => {
      const find = (name) => image.versions.find((version) => version.label === name);
      const own = find(label)?.scores[metric.name];
      const other = reference ? find(reference)?.scores[metric.name] : 0;
      return own === undefined || other === undefined ? null : own - other;
    });
  }
  return table;
}

const colorOf = (label) => COLORS[data.methods.indexOf(label) % COLORS.length];

function drawPlot() {
  const metric = data.metrics.find((candidate) => candidate.name === byId("metric").value);
  const reference = byId("reference").value;
  const table = valuesOf(metric, reference);
  const all = Object.values(table).flat().filter((value) => value !== null);
  if (reference) all.push(0);
  const margin = 0.06 * (Math.max(...all) - Math.min(...all) || 1);
  const [low, high] = [Math.min(...all) - margin, Math.max(...all) + margin];

  const box = { left: 56, right: 12, top: 12, bottom: 76, height: 320 };
  const needed = box.left + box.right + 18 * data.images.length;
  const width = Math.max(byId("plot").clientWidth, needed);
  const step = (width - box.left - box.right) / data.images.length;
  const root = svg("svg", { width, height: box.height, role: "img" });
  const bottom = box.height - box.bottom;
  const yOf = (value) => box.top + ((high - value) / (high - low)) * (bottom - box.top);
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const value = low + share * (high - low);
    const y = yOf(value);
    root.append(svg("line", { class: "axis", x1: box.left, x2: width - box.right, y1: y, y2: y }));
    const place = { x: box.left - 6, y: y + 4, "text-anchor": "end" };
    root.append(svg("text", place, value.toFixed(metric.digits)));
  }
  data.images.forEach((image, i) => {
    const x = box.left + (i + 0.5) * step;
    const y = bottom + 14;
    root.append(svg("line", { class: "axis", x1: x, x2: x, y1: box.top, y2: bottom }));
    const place = { x, y, "text-anchor": "end", transform: `rotate(-45 ${x} ${y})` };
    root.append(svg("text", place, image.name.slice(0, 14)));
    for (const [label, values] of Object.entries(table)) {
      if (values[i] === null) continue;
      const place = { class: "point", cx: x, cy: yOf(values[i]), r: 4.5, fill: colorOf(label) };
      const point = svg("circle", place);
      const text = `${image.name}, ${label}: ${values[i].toFixed(metric.digits + 1)}`;
      point.append(svg("title", {}, text));
      point.addEventListener("click", () => {
        showImage(i);
        byId("images").scrollIntoView();
      });
      root.append(point);
    }
  });
  byId("plot").replaceChildren(root);
  const entries = Object.keys(table).map((label) => {
    const entry = element("span", { textContent: label });
    entry.style.setProperty("--color", colorOf(label));
    return entry;
  });
  byId("legend").replaceChildren(...entries);
}

function startPlot() {
  const scored = data.metrics.filter((metric) =>
    data.images.some((image) => image.versions.some((v) => metric.name in v.scores)),
  );
  if (!scored.length) return;
  byId("scores").hidden = false;
  fillSelect(byId("metric"), scored.map((metric) => [metric.name, metric.title]));
  const gains = data.methods.map((label) => [label, `gain over ${label}`]);
  const chosen = data.methods.length > 1 ? data.methods[0] : "";
  fillSelect(byId("reference"), [["", "score"], ...gains], chosen);
  for (const id of ["metric", "reference"]) byId(id).addEventListener("change", drawPlot);
  addEventListener("resize", drawPlot);
  drawPlot();
}

// ------------------------------------------------------------------- table

// Compare the values of two cells of a column; null is last in both directions.
function compareValues(x, y, isUp) {
  if (x === null || y === null) return (x === null) - (y === null);
  const order = typeof x === "number" ? x - y : x.localeCompare(y, "en", { numeric: true });
  return isUp ? order : -order;
}

function buildTable({ columns, rows }) {
  const body = element("tbody");
  const lines = rows.map((row) => {
    const cells = row.map((cell, i) =>
      element(i ? "td" : "th", { textContent: cell.text, className: cell.rank }),
    );
    return { row, node: element("tr", {}, cells) };
  });
  body.append(...lines.map(({ node }) => node));
  const heads = columns.map((text, i) => {
    const head = element("th", { textContent: text, scope: "col" });
    head.addEventListener("click", () => {
      // names from A to Z at first, numbers from the highest
      const former = head.getAttribute("aria-sort");
      const isUp = former ? former === "descending" : i === 0;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
      lines.sort((a, b) => compareValues(a.row[i].value, b.row[i].value, isUp));
      body.append(...lines.map(({ node }) => node));
    });
    return head;
  });
  return element("table", {}, [element("thead", {}, [element("tr", {}, heads)]), body]);
}

function startTables() {
  byId("tables").hidden = !data.tables.length;
  for (const table of data.tables) {
    const hints = table.notes.map((note) => note + ".");
    byId("tables").append(
      element("h3", { textContent: table.title }),
      element("div", { className: "scroll" }, [buildTable(table)]),
      ...hints.map((textContent) => element("p", { className: "hint", textContent })),
    );
  }
}

startViewer();
startPlot();
startTables();
