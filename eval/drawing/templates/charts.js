"use strict";

// Curves: values at the pointer, logarithmic axes, drag to zoom; variants are switched on and off for the whole page.
const variants = {
  hidden: new Set(),
  listeners: [],
  toggle(names, off) {
    for (const name of names) this.hidden[off ? "add" : "delete"](name);
    for (const told of this.listeners) told();
  },
};

// Rows and buttons that belong to a variant follow it.
variants.listeners.push(() => {
  for (const row of document.querySelectorAll("tr[data-variant]")) row.hidden = variants.hidden.has(row.dataset.variant);
  const shown = (name) => !variants.hidden.has(name);
  for (const button of document.querySelectorAll("button[data-variant]")) button.setAttribute("aria-pressed", shown(button.dataset.variant));
  for (const button of document.querySelectorAll("button[data-part]")) button.setAttribute("aria-pressed", JSON.parse(button.dataset.part).some(shown));
});

for (const bar of document.querySelectorAll(".variants")) {
  const names = [...bar.querySelectorAll("button[data-variant]")].map((button) => button.dataset.variant);
  bar.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (!button) return;
    if (button.dataset.variant) return variants.toggle([button.dataset.variant], !variants.hidden.has(button.dataset.variant));
    if (button.dataset.all) return variants.toggle(names, button.dataset.all === "none");
    // A part of an axis: all variants that have it.
    const mine = JSON.parse(button.dataset.part);
    variants.toggle(mine, mine.some((name) => !variants.hidden.has(name)));
  });
}

for (const place of document.querySelectorAll(".chart")) {
  const figure = JSON.parse(place.querySelector("script").textContent);
  const canvas = place.querySelector(".canvas"), readout = place.querySelector(".readout");
  const log = { x: Boolean(figure.logX), y: false };
  let drawn = null;

  const short = (value) => {
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size >= 1e5 || size < 1e-3) return value.toExponential(2);
    return size >= 100 ? value.toLocaleString("en", { maximumFractionDigits: 1 }) : String(Number(value.toPrecision(4)));
  };

  // One x axis for all curves; where a curve has no point there, it is drawn through.
  function aligned() {
    const tables = figure.curves.map((curve) => [curve.x, curve.y, ...(curve.low ? [curve.low, curve.high] : [])]);
    return uPlot.join(tables);
  }

  function positive(values) {
    const known = values.flat().filter((value) => value != null);
    return known.length > 0 && known.every((value) => value > 0);
  }

  function spans(values) {
    const known = values.flat().filter((value) => value != null);
    return known.length ? Math.max(...known) / Math.min(...known) : 1;
  }

  function draw() {
    const data = aligned();
    const style = getComputedStyle(place);
    const [ink, line] = ["--ink", "--line"].map((name) => style.getPropertyValue(name).trim());
    const series = [{}], bands = [], labels = new Map();
    // Of many curves only the lines can be told apart.
    const seen = new Set(figure.curves.map((curve) => curve.variant).filter((name) => !variants.hidden.has(name)));
    const crowded = seen.size > 8;
    for (const curve of figure.curves) {
      const show = seen.has(curve.variant) && !(crowded && curve.faint);
      labels.set(series.length, curve);
      const few = curve.x.length <= 40 && !curve.faint && !crowded;
      series.push({
        label: curve.variant, stroke: curve.colour, width: curve.faint ? 1 : 2, dash: curve.dash, show,
        alpha: curve.faint ? 0.4 : 1, points: { show: few, size: 5, fill: curve.colour },
      });
      if (!curve.low) continue;
      const edged = show && !crowded;
      const edge = { stroke: "transparent", width: 0, show: edged, points: { show: false } };
      if (edged) bands.push({ series: [series.length + 1, series.length], fill: `${curve.colour}2b` });
      series.push({ ...edge }, { ...edge });
    }
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 }, font: `11px ${style.fontFamily}`, labelFont: `12px ${style.fontFamily}`, labelSize: 20 };
    const plain = { values: (_, splits) => splits.map((value) => (value == null ? "" : short(value))) };
    const named = { splits: () => figure.ticks.map(([at]) => at), values: () => figure.ticks.map(([, text]) => text), filter: (_, splits) => splits };
    const options = {
      width: canvas.clientWidth, height: Math.round(Math.min(320, Math.max(220, 0.62 * canvas.clientWidth))),
      legend: { show: false }, series, bands,
      cursor: { focus: { prox: 24 }, points: { size: 7 }, drag: { x: true, y: false } },
      focus: { alpha: 0.25 },
      scales: {
        x: { time: false, distr: log.x ? 3 : 1, log: figure.logX === 2 ? 2 : 10 },
        y: { distr: log.y ? 3 : 1, range: log.y || !figure.zero ? undefined : (_, low, high) => [Math.min(0, low), 1.05 * high || 1] },
      },
      axes: [
        { ...axis, label: figure.x, ...(figure.ticks ? named : plain), size: 34 },
        { ...axis, label: figure.y, size: 52, ...plain },
      ],
      hooks: {
        setCursor: [(chart) => read(chart, labels)],
        draw: figure.mark ? [(chart) => mark(chart, ink)] : [],
      },
    };
    if (drawn) drawn.destroy();
    drawn = new uPlot(options, data, canvas);
    for (const part of drawn.root.querySelectorAll(".u-over")) part.style.touchAction = "pan-y";
  }

  function mark({ ctx, bbox, valToPos }, ink) {
    const x = valToPos(figure.mark[0], "x", true);
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = ink;
    ctx.setLineDash([2, 3]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.textAlign = "left";
    ctx.textBaseline = "top";
    ctx.font = `${10 * devicePixelRatio}px sans-serif`;
    ctx.fillText(figure.mark[1], x + 4 * devicePixelRatio, bbox.top);
    ctx.restore();
  }

  // The values at the pointer, the largest first, as the curves stand above each other.
  function read(chart, labels) {
    const { idx, left } = chart.cursor;
    if (idx == null || left < 0) {
      readout.replaceChildren();
      return;
    }
    const tick = figure.ticks?.find(([at]) => at === chart.data[0][idx]);
    const rows = [...labels].filter(([index]) => chart.series[index].show && chart.data[index][idx] != null)
      .map(([index, curve]) => [chart.data[index][idx], curve, curve.low && (chart.data[index + 2][idx] - chart.data[index + 1][idx]) / 2])
      .sort(([a], [b]) => b - a);
    readout.replaceChildren(part("b", `${figure.x} ${tick ? tick[1] : short(chart.data[0][idx])}`), ...rows.map(([value, curve, half]) => {
      const dot = part("i", "");
      dot.className = "dot";
      dot.style.background = curve.colour;
      const row = part("span", "");
      row.append(dot, `${curve.variant}${curve.faint ? " (training)" : ""} `, part("b", short(value)), half ? ` ± ${short(half)}` : "");
      return row;
    }));
  }

  function part(tag, text) {
    const made = document.createElement(tag);
    made.textContent = text;
    return made;
  }

  function save(name, content) {
    const link = document.createElement("a");
    link.href = content;
    link.download = name;
    link.click();
  }

  const file = figure.title.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const actions = {
    png: () => save(`${file}.png`, drawn.ctx.canvas.toDataURL("image/png")),
    csv: () => {
      const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
      const lines = figure.curves.flatMap((curve) => curve.x.map((x, at) => [quoted(curve.variant), x, curve.y[at] ?? "", curve.low?.[at] ?? "", curve.high?.[at] ?? ""].join(",")));
      save(`${file}.csv`, `data:text/csv;charset=utf-8,${encodeURIComponent(["variant,x,y,low,high", ...lines].join("\n"))}`);
    },
    x: (button) => flip("x", button),
    y: (button) => flip("y", button),
  };

  function flip(side, button) {
    log[side] = !log[side];
    button.setAttribute("aria-pressed", log[side]);
    draw();
  }

  const every = { x: figure.curves.map((curve) => curve.x), y: figure.curves.flatMap((curve) => [curve.y, curve.low ?? [], curve.high ?? []]) };
  log.y = figure.logY && positive(every.y) && spans(every.y) > 5;
  for (const button of place.querySelectorAll("button")) {
    const side = button.value;
    if (side in every) {
      // An axis with names, or with numbers that have no logarithm, has one form only.
      button.hidden = !positive(every[side]) || (side === "x" && Boolean(figure.ticks));
      if (button.hidden) log[side] = false;
      button.setAttribute("aria-pressed", log[side]);
    }
    button.addEventListener("click", () => actions[side](button));
  }
  let width = 0;
  new ResizeObserver(() => {
    if (canvas.clientWidth && canvas.clientWidth !== width) draw();
    width = canvas.clientWidth;
  }).observe(canvas);
  variants.listeners.push(() => canvas.clientWidth && draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => canvas.clientWidth && draw());
}
