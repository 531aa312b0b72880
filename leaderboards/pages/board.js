
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg", DASHES = ["", "7 3", "2 3", "10 3 2 3"];
const shown = new Set(data.arms.filter(arm => !arm.control).map(arm => arm.label));
const arms = new Map(data.arms.map(arm => [arm.label, arm]));
let chosen = null;

function make(tag, attributes, parent, content) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (content !== undefined) node.textContent = content;
  if (parent) parent.append(node);
  return node;
}
function html(tag, name, parent, content) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (content !== undefined) node.textContent = content;
  if (parent) parent.append(node);
  return node;
}
const colour = label => `var(--c${arms.get(label).colour})`;
// The bands of many arms hide each other: beyond a few, only that of the arm under the pointer is drawn.
const MOST_BANDS = 5;
const NARROW = 560;
// Fewer may leave a single label on an axis, which says nothing of its scale.
const LEAST_TICKS = 4;
const fade = label => chosen !== null && chosen !== label ? " faded" : "";
const number = (value, sign) => {
  const text = Math.abs(value) < 1e-9 ? "0" : String(Number(value.toPrecision(3)));
  return sign && value > 1e-9 ? "+" + text : text.replace("-", "\u2212");
};

function ticks(low, high, most) {
  const span = (high - low) || 1;
  let step = 10 ** Math.floor(Math.log10(span / most));
  step = [1, 2, 5, 10].map(factor => factor * step).find(each => span / each <= most) || 10 * step;
  const all = [];
  for (let index = Math.ceil(low / step - 1e-9); index <= high / step + 1e-9; index++) all.push(index * step);
  return all;
}

// ---- the arms that are drawn

function switches() {
  const bar = document.getElementById("arms");
  for (const arm of data.arms) {
    const button = html("button", "", bar);
    button.type = "button";
    const line = make("svg", {viewBox: "0 0 28 8", "aria-hidden": "true"});
    make("line", {x1: 0, x2: 28, y1: 4, y2: 4, stroke: `var(--c${arm.colour})`, "stroke-width": 3,
      "stroke-dasharray": DASHES[arm.dash % DASHES.length]}, line);
    button.append(line, document.createTextNode(arm.label));
    button.dataset.arm = arm.label;
    if (arm.control) button.title = "positive control: its gain squashes the others on one scale";
    button.addEventListener("click", () => {
      shown.has(arm.label) ? shown.delete(arm.label) : shown.add(arm.label);
      draw();
    });
    for (const [event, label] of [["pointerenter", arm.label], ["pointerleave", null]])
      button.addEventListener(event, () => { chosen = shown.has(arm.label) ? label : null; drawCharts(); });
  }
  for (const [name, wanted] of [["all", () => true], ["none", arm => arm.baseline]]) {
    const button = html("button", "", bar, name);
    button.type = "button";
    button.dataset.set = name;
    button.addEventListener("click", () => {
      for (const arm of data.arms) wanted(arm) ? shown.add(arm.label) : shown.delete(arm.label);
      draw();
    });
  }
}

function draw() {
  for (const button of document.querySelectorAll("#arms button[data-arm]"))
    button.setAttribute("aria-pressed", String(shown.has(button.dataset.arm)));
  for (const part of document.querySelectorAll("main > [data-arm]")) part.hidden = !shown.has(part.dataset.arm);
  drawCharts();
}

function drawCharts() {
  for (const figure of document.querySelectorAll(".chart")) {
    const chart = data.charts[Number(figure.dataset.chart)];
    figure.querySelectorAll("svg, p").forEach(node => node.remove());
    hide(figure);
    const labels = data.arms.map(arm => arm.label).filter(label => shown.has(label) && chart.arms[label]);
    if (!labels.length) { html("p", "soft", figure, "No arm is switched on."); continue; }
    (chart.kind === "curves" ? curves : differences)(figure, chart, labels);
  }
}

// ---- values beside the pointer

function hide(figure) {
  figure.querySelectorAll(".values, .cursor").forEach(node => node.remove());
}
function values(figure, title, rows, x, y, below = 0) {
  figure.querySelectorAll(".values").forEach(node => node.remove());
  const box = html("div", "values", figure);
  html("div", "soft", box, title);
  const table = html("table", "", box);
  for (const [label, ...cells] of rows) {
    const row = html("tr", "", table), name = html("td", "word", row);
    if (arms.has(label)) html("i", "", name).style.background = colour(label);
    name.append(label);
    cells.forEach(cell => html("td", "", row, cell));
  }
  const room = figure.clientWidth - box.offsetWidth;
  box.style.left = `${Math.max(0, Math.min(room, x + 14 < room ? x + 14 : x - box.offsetWidth - 14))}px`;
  // Where there is no room beside the pointer, below the drawing, which it would hide.
  box.style.top = `${figure.clientWidth < NARROW && below ? below : y}px`;
}

// ---- differences with intervals

function differences(figure, chart, labels) {
  const width = figure.clientWidth, narrow = width < NARROW, left = narrow ? 8 : 160, right = width - 12;
  const row = narrow ? 44 : 30, height = row * labels.length + 30;
  const ends = labels.flatMap(label => {
    const arm = chart.arms[label];
    return [...(arm.interval || [arm.mean]), ...arm.seeds.map(pair => pair[1])];
  });
  let low = Math.min(-chart.near, ...ends), high = Math.max(chart.near, ...ends);
  const room = .06 * (high - low);
  low -= room; high += room;
  const x = value => left + (value - low) / (high - low) * (right - left);
  const svg = make("svg", {width, height, role: "img", "aria-label": chart.title}, figure);
  make("rect", {x: x(-chart.near), y: 0, width: x(chart.near) - x(-chart.near), height: height - 26,
    fill: "var(--panel)"}, svg);
  make("line", {class: "zero", x1: x(0), x2: x(0), y1: 0, y2: height - 26}, svg);
  for (const tick of ticks(low, high, Math.max(LEAST_TICKS, Math.floor((right - left) / 60))))
    make("text", {class: "soft", "text-anchor": "middle", x: x(tick), y: height - 8}, svg, number(tick, true));
  labels.forEach((label, index) => {
    const arm = chart.arms[label], y = row * index + (narrow ? 30 : 16), tone = `var(--${arm.tone})`;
    const group = make("g", {class: "arm" + fade(label), "data-arm": label}, svg);
    make("rect", {x: 0, y: row * index, width, height: row, fill: "transparent"}, group);
    make("text", {x: narrow ? left : 0, y: narrow ? y - 14 : y + 4}, group, label);
    for (const [, value] of arm.seeds) make("circle", {cx: x(value), cy: y, r: 2.5, fill: tone, opacity: .35}, group);
    if (arm.interval) make("line", {x1: x(arm.interval[0]), x2: x(arm.interval[1]), y1: y, y2: y, stroke: tone,
      "stroke-width": 2}, group);
    make("circle", {cx: x(arm.mean), cy: y, r: 5, fill: tone}, group);
    const tell = () => values(figure, `${label}: ${arm.outcome}`, [["mean", arm.level],
      ...arm.seeds.map(([seed, value]) => [`seed ${seed}`, number(value, true)])], x(arm.mean), row * index + row);
    group.addEventListener("pointerenter", tell);
    group.addEventListener("pointerdown", tell);
    group.addEventListener("pointerleave", () => hide(figure));
  });
}

// ---- curves with bands

function curves(figure, chart, labels) {
  const width = figure.clientWidth, left = 52, right = width - 10, top = 10, bottom = width < NARROW ? 210 : 250;
  const of = name => labels.flatMap(label => chart.arms[label][name]);
  const first = Math.min(...of("steps")), last = Math.max(...of("steps"));
  let low = Math.min(...of("lows")), high = Math.max(...of("highs"));
  const room = .04 * ((high - low) || 1);
  low = low >= 0 ? Math.max(low - room, 0) : low - room; high += room;
  const x = step => left + (step - first) / ((last - first) || 1) * (right - left);
  const y = value => bottom - (value - low) / (high - low) * (bottom - top);
  const svg = make("svg", {width, height: bottom + 42, role: "img", "aria-label": `${chart.title} over training steps`},
    figure);
  for (const tick of ticks(low, high, 6)) {
    make("line", {class: "axis", x1: left, x2: right, y1: y(tick), y2: y(tick)}, svg);
    make("text", {class: "soft", "text-anchor": "end", x: left - 8, y: y(tick) + 4}, svg, number(tick));
  }
  const most = Math.max(LEAST_TICKS, Math.floor((right - left) / 50));
  for (const tick of ticks(first, last, most).filter(Number.isInteger))
    make("text", {class: "soft", "text-anchor": "middle", x: x(tick), y: bottom + 20}, svg, number(tick));
  make("text", {class: "soft", "text-anchor": "end", x: right, y: bottom + 37}, svg, "training step");
  // The baseline last, so that it lies on top and can be compared with every other.
  const order = [...labels].sort((one, other) => arms.get(one).baseline - arms.get(other).baseline);
  for (const label of order) {
    const arm = chart.arms[label], at = (name, index) => `${x(arm.steps[index])},${y(arm[name][index])}`;
    const places = [...arm.steps.keys()], there = places.map(index => at("highs", index));
    const back = places.map(index => at("lows", index)).reverse();
    if (labels.length <= MOST_BANDS || chosen === label)
      make("polygon", {class: "band" + fade(label), points: [...there, ...back].join(" "), fill: colour(label)}, svg);
    make("polyline", {class: "line" + fade(label), "data-arm": label, points: places.map(index => at("means", index))
      .join(" "), fill: "none", stroke: colour(label), "stroke-width": 2,
      "stroke-dasharray": DASHES[arms.get(label).dash % DASHES.length]}, svg);
  }
  const steps = [...new Set(of("steps"))].sort((one, other) => one - other);
  const tell = step => {
    hide(figure);
    make("line", {class: "cursor", x1: x(step), x2: x(step), y1: top, y2: bottom}, svg);
    const rows = [], digits = Math.max(0, Math.min(6, 3 - Math.ceil(Math.log10(high - low))));
    const fixed = value => value.toFixed(digits).replace("-", "\u2212");
    for (const label of labels) {
      const arm = chart.arms[label], index = arm.steps.indexOf(step);
      if (index < 0) continue;
      // Of one seed, or of seeds that do not differ, there is none: its bounds are the mean.
      const known = arm.lows[index] < arm.highs[index];
      const interval = known ? `${fixed(arm.lows[index])} to ${fixed(arm.highs[index])}` : "-";
      rows.push([arm.means[index], [label, fixed(arm.means[index]), interval]]);
    }
    rows.sort((one, other) => other[0] - one[0]);
    values(figure, `step ${number(step)}`, rows.map(pair => pair[1]), x(step), top, bottom + 42);
    figure.dataset.step = step;
  };
  const nearest = event => {
    const place = event.clientX - svg.getBoundingClientRect().left;
    tell(steps.reduce((best, step) => Math.abs(x(step) - place) < Math.abs(x(best) - place) ? step : best));
  };
  svg.addEventListener("pointermove", nearest);
  svg.addEventListener("pointerdown", nearest);
  svg.addEventListener("pointerleave", () => hide(figure));
  figure.onkeydown = event => {
    const move = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!move) return;
    event.preventDefault();
    const now = steps.indexOf(Number(figure.dataset.step));
    tell(steps[Math.max(0, Math.min(steps.length - 1, now + move))]);
  };
  figure.onblur = () => hide(figure);
}

switches();
draw();
let wide = window.innerWidth;
window.addEventListener("resize", () => { if (window.innerWidth !== wide) { wide = window.innerWidth; drawCharts(); } });
