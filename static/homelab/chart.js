// uPlot over the drawn chart: the same figures, ticks and labels, with hover and drag zoom. Without it the SVG stays.
"use strict";

const UNITS = {
  bytes: [1, 1024, ["B/s", "KiB/s", "MiB/s", "GiB/s", "TiB/s", "PiB/s"]],
  bits: [8, 1000, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s", "Pbit/s"]],
};

function rateText(rate, unit) {
  if (rate === null || rate === undefined) return "–";
  const [factor, base, names] = UNITS[unit];
  let value = rate * factor;
  let power = 0;
  while (value >= base && power < names.length - 1) {
    value /= base;
    power += 1;
  }
  return `${Number(value.toPrecision(3))} ${names[power]}`;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function faint(name, share) {
  return `color-mix(in srgb, ${colour(name)} ${share}%, transparent)`;
}

// Every mark is a line at the start of its step.
function drawMarks(plot, data) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = colour("warn");
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
  data.marks.forEach((kinds, index) => {
    if (!kinds.length || kinds.join() === (data.marks[index - 1] || []).join()) return;
    const x = plot.valToPos(data.starts[index] / 1000, "x", true);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  });
  ctx.restore();
}

// Every event is a flag at its instant.
function drawEvents(plot, data) {
  const { ctx, bbox } = plot;
  const unit = devicePixelRatio;
  ctx.save();
  ctx.fillStyle = colour("quiet");
  for (const [at] of data.events) {
    const x = plot.valToPos(at / 1000, "x", true);
    ctx.globalAlpha = 0.5;
    ctx.fillRect(x - unit / 2, bbox.top, unit, bbox.height);
    ctx.globalAlpha = 1;
    ctx.beginPath();
    ctx.moveTo(x - 4 * unit, bbox.top);
    ctx.lineTo(x + 4 * unit, bbox.top);
    ctx.lineTo(x, bbox.top + 7 * unit);
    ctx.fill();
  }
  ctx.restore();
}

// What is marked in a step, and what happened in it.
function notes(data, index) {
  const until = data.starts[index + 1] ?? data.end;
  const happened = data.events.filter(([at]) => data.starts[index] <= at && at < until).map(([, text]) => text);
  return [...(data.marks[index] ?? []), ...happened].map((note) => `, ${note}`).join("");
}

// The figures stand in the middle of their steps; the steps' ends are the chart's.
function columns(data) {
  const ends = [...data.starts.slice(1), data.end];
  const below = (values) => values.map((value) => (value === null ? null : -value));
  const ranges = hasRanges(data) ? [data.rx_peak, lowest(data, "rx"), below(data.tx_peak), below(lowest(data, "tx"))] : [];
  return [data.starts.map((start, index) => (start + ends[index]) / 2000), data.rx, below(data.tx), ...ranges];
}

// Hours of before there were lows have none: their range begins at the rate.
function lowest(data, name) {
  return data[`${name}_low`].map((low, index) => low ?? data[name][index]);
}

function rangeText(data, name, index) {
  if (index === null || data[name][index] === null) return "–";
  return `${rateText(lowest(data, name)[index], data.unit)} to ${rateText(data[`${name}_peak`][index], data.unit)}`;
}

// A total has none: the highest of a sum is not the sum of the highest.
function hasRanges(data) {
  return data.rx_peak.some((peak) => peak !== null);
}

function options(data, width, zoom) {
  const when = new Intl.DateTimeFormat("en-GB", {
    timeZone: data.zone, weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit",
  });
  const rate = (plot, value) => rateText(value === null ? null : Math.abs(value), data.unit);
  const series = (label, name, alpha, line) => ({
    label, value: rate, fill: alpha ? faint(name, alpha) : null, stroke: line ? colour(name) : null, width: line ? 1.5 : 0,
    points: { show: false, ...(line && { filter: alone, size: 5, stroke: colour(name), fill: colour(name) }) },
  });
  const range = (label, name) => [
    { ...series(label, name, 0, false), value: (plot, peak, place, index) => rangeText(data, name, index) },
    { ...series("", name, 0, false), class: "u-unnamed" },
  ];
  const axis = { stroke: colour("quiet"), font: "11px system-ui", ticks: { show: false } };
  const rates = data.ticks.map(([value]) => value);
  return {
    width,
    height: 272,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), data.zone),
    padding: [8, 20, 0, 0], // to the right: half a label
    cursor: { drag: { x: true, y: false, setScale: false }, points: { size: 6 }, y: false },
    scales: {
      x: { range: () => [data.starts[0] / 1000, data.end / 1000] },
      y: { range: () => [Math.min(...rates), Math.max(...rates)] },
    },
    axes: [
      {
        ...axis, size: 24, gap: 4, grid: { stroke: colour("line"), width: 1 },
        splits: () => data.labels.map(([at]) => at / 1000),
        values: () => data.labels.map(([, text], index) => (width < 500 && index % 2 ? "" : text)),
      },
      {
        ...axis, size: 76, gap: 8, grid: { stroke: colour("line"), width: 1 },
        splits: () => [...rates].reverse(),
        values: () => data.ticks.map(([, text]) => text).reverse(),
      },
    ],
    series: [
      {
        label: "at",
        value: (plot, seconds, place, index) => (seconds === null ? "–" : when.format(seconds * 1000) + notes(data, index)),
      },
      series("received", "rx", 28, true),
      series("sent", "tx", 28, true),
      ...(hasRanges(data) ? [...range("range received", "rx"), ...range("range sent", "tx")] : []),
    ],
    // Each between its upper and its lower line: of what is sent, below the axis, the lowest is the upper one.
    bands: hasRanges(data)
      ? [
          { series: [3, 4], fill: faint("rx", 20) },
          { series: [6, 5], fill: faint("tx", 20) },
        ]
      : [],
    hooks: {
      ready: [showLast],
      draw: [(plot) => drawMarks(plot, data), (plot) => drawEvents(plot, data)],
      setSelect: [
        (plot) => {
          if (plot.select.width < 4) return;
          const at = (pixels, whole) => new Date(whole(plot.posToVal(pixels, "x")) * 1000).toISOString();
          zoom(at(plot.select.left, Math.floor), at(plot.select.left + plot.select.width, Math.ceil));
        },
      ],
    },
  };
}

// A figure with none on either side makes no line, and is drawn as a point.
function alone(plot, number) {
  const values = plot.data[number];
  const isKnown = (index) => (values[index] ?? null) !== null;
  return [...values.keys()].filter((index) => isKnown(index) && !isKnown(index - 1) && !isKnown(index + 1));
}

// While nothing is pointed at, the legend tells the last known figures.
function showLast(plot) {
  const idx = plot.data[1].findLastIndex((value) => value !== null);
  if (idx >= 0) plot.setLegend({ idx });
}

// Take over every drawn chart that has no canvas yet.
function takeOver(root, show) {
  if (!window.uPlot) return;
  for (const figure of root.querySelectorAll("[data-chart]")) {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const holder = document.createElement("div");
    holder.className = "chart-live";
    let plot;
    const draw = () => {
      plot?.destroy();
      plot = new uPlot(options(data, holder.clientWidth, show), columns(data), holder);
      plot.over.addEventListener("mouseleave", () => showLast(plot));
      plot.root.addEventListener("dblclick", () => show(null, null));
      plot.ctx.canvas.role = "img";
      plot.ctx.canvas.ariaLabel = name;
    };
    const name = figure.querySelector(".chart-plot").getAttribute("aria-label");
    figure.querySelector(".chart-drawing").replaceWith(holder);
    draw();
    new ResizeObserver(() => plot.width !== holder.clientWidth && holder.clientWidth && draw()).observe(holder);
    drawn = [...drawn.filter((each) => each.holder.isConnected), { holder, draw }];
  }
}

// The charts of the page, which are drawn anew in another theme.
let drawn = [];

function drawAll() {
  for (const each of drawn) if (each.holder.isConnected) each.draw();
}

new MutationObserver(drawAll).observe(document.documentElement, { attributeFilter: ["data-theme"] });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

// Fetch a page and take its chart from it: the server draws every window, and the address says which.
async function showAddress(address) {
  const answer = await fetch(address);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("chart");
  if (!answer.ok || !fresh) return location.assign(address);
  document.getElementById("chart").replaceWith(fresh);
  takeOver(fresh, zoomTo);
}

function zoomTo(start, end) {
  const address = new URL(location);
  for (const name of ["start", "end", "from", "to"]) address.searchParams.delete(name);
  if (start) {
    address.searchParams.set("start", start);
    address.searchParams.set("end", end);
  }
  history.pushState(null, "", address);
  showAddress(address);
}

// Take the chart of a page that was fetched anew, but for one that is looked at closely.
function refreshChart(page) {
  const old = document.getElementById("chart");
  const fresh = page.getElementById("chart");
  const isOfNow = !["start", "from"].some((name) => new URL(location).searchParams.has(name));
  if (!old || !fresh || !isOfNow || old.matches(":hover") || old.contains(document.activeElement)) return;
  old.replaceWith(fresh);
  takeOver(fresh, zoomTo);
}

addEventListener("popstate", () => showAddress(new URL(location)));
takeOver(document, zoomTo);
