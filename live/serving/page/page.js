"use strict";
// Shows /status every two seconds. All text is set as text, never as markup.
const SVG = "http://www.w3.org/2000/svg";
const PERIOD = 2000;
const LOGIN = document.getElementById("login");
let token = sessionStorage.getItem("token");

const byId = (id) => document.getElementById(id);
const number = (value, digits) =>
  value === null || value === undefined ? "-" : Number(value).toLocaleString("en", { maximumFractionDigits: digits });
const title = (name) => {
  const words = name.replaceAll("_", " ").replace("nll", "negative log-likelihood");
  return words[0].toUpperCase() + words.slice(1);
};

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Draws points [x, y] as a line, others as dots, a dashed limit, and an upright mark, with the ranges at the axes.
function draw(svg, line, dots, limit, low, mark) {
  const width = svg.clientWidth || 600, height = 190, left = 48, right = 8, top = 10, bottom = 24;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const values = [...line, ...dots].map((point) => point[1]).concat(limit === null ? [] : [limit]);
  if (!line.length) {
    svg.append(element("text", { x: left, y: height / 2 }, "No sample was learned so far."));
    return;
  }
  let min = low === null ? Math.min(...values) : low, max = Math.max(...values);
  if (max - min < 1e-9) max = min + 1;
  const first = line[0][0], last = Math.max(line.at(-1)[0], first + 1);
  const x = (value) => left + (width - left - right) * (value - first) / (last - first);
  const y = (value) => top + (height - top - bottom) * (max - value) / (max - min);
  for (const value of [min, (min + max) / 2, max]) {
    svg.append(element("line", { class: "axis", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(element("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, number(value, 1)));
  }
  svg.append(element("text", { x: left, y: height - 6 }, `sample ${number(first, 0)}`));
  svg.append(element("text", { x: width - right, y: height - 6, "text-anchor": "end" }, number(line.at(-1)[0], 0)));
  if (limit !== null)
    svg.append(element("line", { class: "limit", x1: left, x2: width - right, y1: y(limit), y2: y(limit) }));
  if (mark !== null && mark >= first && mark <= last)
    svg.append(element("line", { class: "drifted", x1: x(mark), x2: x(mark), y1: top, y2: height - bottom }));
  for (const point of dots) svg.append(element("circle", { class: "dot", cx: x(point[0]), cy: y(point[1]), r: 2.5 }));
  svg.append(element("polyline", { class: "curve", points: line.map((p) => `${x(p[0])},${y(p[1])}`).join(" ") }));
}

// The mean of each interval out of the means so far.
function intervals(history) {
  const found = [];
  for (let i = 1; i < history.length; i++) {
    const [a, b] = [history[i - 1], history[i]];
    if (a.value !== null && b.value !== null && b.samples > a.samples)
      found.push([b.samples, (b.value * b.samples - a.value * a.samples) / (b.samples - a.samples)]);
  }
  return found;
}

const shown = (value) => (typeof value === "number" ? number(value, 4) : Array.isArray(value) ? value.join(", ") : String(value ?? ""));

function rows(recent) {
  return recent.map((entry) => {
    const row = document.createElement("tr");
    const probability = entry.probability === null ? "" : number(entry.probability, 3);
    for (const text of [shown(entry.prediction), shown(entry.label), probability, entry.x, entry.time])
      row.insertCell().textContent = text;
    const numeric = typeof entry.label === "number" && entry.probability === null;
    if (entry.label !== null && !numeric && shown(entry.label) !== shown(entry.prediction)) row.cells[1].className = "wrong";
    return row;
  });
}

// The figures over the last predictions, and the alarms that are on.
function watched(found) {
  const firing = found.alarms.filter((alarm) => alarm.firing);
  byId("alarms").hidden = !firing.length;
  const text = firing.length ? `Alarm: ${firing.map((a) => `${a.rule} (now ${shown(a.value)})`).join(", ")}` : "";
  if (byId("alarms").textContent !== text) byId("alarms").textContent = text;  // a reader announces it once
  byId("window-name").textContent = `Last ${number(found.predictions, 0)} predictions`;
  byId("window").replaceChildren(...Object.entries(found.window).map(([name, value]) => {
    const box = document.createElement("div");
    box.append(document.createElement("h3"), document.createElement("p"));
    box.children[0].textContent = name === "missing" ? "Missing labels" : title(name);
    box.children[1].textContent = number(value, 3);
    return box;
  }));
}

function show(status) {
  const name = status.main, isShare = name !== null && name.includes("accuracy");
  byId("state").textContent = status.state === "stopped" ? "stopped" : "live";
  byId("failure").hidden = !status.failure;
  byId("failure").textContent = status.failure;
  if (name !== null) {
    const unit = isShare ? " (%)" : "";
    byId("main-name").textContent = byId("curve-name").textContent = title(name) + unit;
  }
  byId("main").textContent = number(name && status.metrics[name], 2);
  byId("samples").textContent = number(status.metrics.samples, 0);
  byId("waiting").textContent = number(status.metrics.waiting, 0);
  byId("backlog").textContent = number(status.backlog, 0);
  byId("drifts").textContent = number(status.drift.detected, 0);
  watched(status.watched);
  const history = status.history.filter((point) => point.value !== null);
  draw(byId("curve"), history.map((p) => [p.samples, p.value]), intervals(history), null, isShare ? 0 : null, status.drift.last_step);
  draw(byId("drift"), status.history.map((p) => [p.samples, p.statistic]), [], status.drift.threshold, 0, status.drift.last_step);
  byId("recent").replaceChildren(...rows(status.recent));
  byId("none").hidden = status.recent.length > 0;
}

async function refresh() {
  try {
    const answer = await fetch("/status", { headers: token ? { Authorization: `Bearer ${token}` } : {} });
    LOGIN.hidden = answer.status !== 401;
    if (answer.ok) show(await answer.json());
    else byId("state").textContent = answer.status === 401 ? "needs its token" : `status ${answer.status}`;
  } catch {
    byId("state").textContent = "not reached; trying again";
  }
}

LOGIN.addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value;
  sessionStorage.setItem("token", token);
  refresh();
});
refresh();
setInterval(() => document.hidden || refresh(), PERIOD);
