"use strict";
{
  const at = (id) => document.getElementById(id);
  const write = (element, text) => { if (element.textContent !== text) element.textContent = text; };

  // --- words: as they come, see status_view.py

  const cell = (tag, text, scope) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (scope) made.scope = scope;
    return made;
  };

  function fill(body, rows) {
    const told = JSON.stringify(rows);
    if (body.dataset.told === told) return;
    body.dataset.told = told;
    const made = rows.map((row) => {
      const line = document.createElement("tr");
      line.append(...row.map((text, index) => index ? cell("td", text) : cell("th", text, "row")));
      return line;
    });
    if (!made.length) {
      const line = document.createElement("tr"), only = cell("td", body.dataset.nothing);
      only.colSpan = body.closest("table").tHead.rows[0].cells.length;
      line.append(only);
      made.push(line);
    }
    body.replaceChildren(...made);
  }

  function judge(view) {
    const verdict = at("verdict"), found = view.level + view.findings.map((finding) => finding.code);
    // It is said aloud when the gateway turns well or unwell, and not for each percent.
    verdict.setAttribute("aria-live", verdict.dataset.found === undefined || verdict.dataset.found === found ? "off" : "polite");
    verdict.dataset.found = found;
    verdict.className = view.level;
    write(verdict, view.verdict);
    const told = JSON.stringify(view.findings), list = at("findings");
    if (list.dataset.told === told) return;
    list.dataset.told = told;
    list.replaceChildren(...view.findings.map((finding, index) => {
      const item = cell("li", `${index ? `${finding.what}. ` : ""}${finding.advice}`);  // the verdict says what the first one is
      item.className = finding.level;
      return item;
    }));
  }

  function show(view) {
    judge(view);
    for (const [id, text] of Object.entries(view.texts)) write(at(id), text);
    for (const [id, rows] of Object.entries(view.rows)) fill(at(id), rows);
  }

  // --- charts

  const colour = (name) => {
    // A custom property with light-dark() is resolved only where it is used.
    const probe = document.createElement("span");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };

  const per = (counts, step) => counts.map((count) => count / step);
  const milliseconds = (times) => times.map((time) => time === null ? null : time * 1000);
  const CHARTS = {
    "rate-chart": { lines: ["all", "without the vendor", "failed"], unit: "/s",
      data: (series) => [per(series.requests, series.step), per(series.without_vendor, series.step), per(series.failed, series.step)] },
    "share-chart": { lines: ["without the vendor"], unit: " %", range: [0, 100],
      data: (series) => [series.requests.map((count, index) => count ? 100 * series.without_vendor[index] / count : null)] },
    "hits-chart": { lines: ["p50", "p99"], unit: " ms", data: (series) => [milliseconds(series.hits_p50), milliseconds(series.hits_p99)] },
    "misses-chart": { lines: ["p50", "p99"], unit: " ms", data: (series) => [milliseconds(series.misses_p50), milliseconds(series.misses_p99)] },
  };
  const drawn = new Map();
  let latest = JSON.parse(at("series").textContent);

  const data = (chart, series) =>
    [series.requests.map((_, index) => series.start + (index + 1) * series.step), ...chart.data(series)];

  const size = (place) => ({ width: Math.max(200, place.clientWidth), height: 170 });

  function draw(id, chart) {
    const place = at(id), colours = ["one", "two", "three"].map(colour), text = colour("text"), grid = colour("grid");
    const value = (_, number) => number === null || number === undefined ? "-" : `${number >= 100 ? number.toFixed(0) : number.toPrecision(3)}${chart.unit}`;
    const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
    drawn.get(id)?.destroy();
    drawn.set(id, new uPlot({
      ...size(place),
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      cursor: { drag: { x: false, y: false } },
      scales: { y: { range: chart.range ?? ((_, low, high) => [0, high > 0 ? high * 1.1 : 1]) } },
      axes: [{ ...axis, size: 32, values: (_, moments) => moments.map((seconds) => new Date(seconds * 1000).toISOString().slice(11, 16)) }, { ...axis, size: 56 }],
      series: [
        { label: "UTC", value: "{HH}:{mm}:{ss}" },
        ...chart.lines.map((label, index) => ({ label, value, stroke: colours[index], width: 2, dash: index ? [6, 3 * index] : [], points: { show: true, size: 3 } })),
      ],
    }, data(chart, latest), place));
  }

  const drawAll = () => { for (const [id, chart] of Object.entries(CHARTS)) draw(id, chart); };
  for (const id of Object.keys(CHARTS)) at(id).parentElement.hidden = false;  // all of them, as they share the width
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  const resized = new ResizeObserver((places) => requestAnimationFrame(() => {
    for (const { target } of places) drawn.get(target.id).setSize(size(target));
  }));
  for (const id of drawn.keys()) resized.observe(at(id));

  // --- the stream

  function listen() {
    const source = new EventSource("/status/events");
    source.addEventListener("open", () => write(at("link"), "and moving"));
    source.addEventListener("message", (event) => {
      latest = JSON.parse(event.data).series;
      for (const [id, chart] of drawn) chart.setData(data(CHARTS[id], latest));
    });
    source.addEventListener("page", (event) => show(JSON.parse(event.data)));
    source.addEventListener("error", () => {
      write(at("link"), "and standing still: the connection is lost, and tried again");
      // After a refusal (too many look, or the token is no longer good) a browser does not try again by itself.
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
    });
  }
  listen();
}
