// The attention viewer. All weights are in the JSON of its section; what is chosen is the state of its form.
(() => {
  "use strict";
  const root = document.querySelector(".viewer");
  if (!root) return;
  const { runs, palettes, decades, tracked } = JSON.parse(root.querySelector("script").textContent);
  const form = root.querySelector("form");
  const stage = root.querySelector(".stage");
  const legend = root.querySelector(".legend");
  const HIDDEN = 0x7fff, LARGEST = 0x7ffe, SIGN = 0x8000, STEPS = 1024;
  const ZERO = [128, 128, 128, 71];
  const media = { dark: matchMedia("(prefers-color-scheme: dark)"), print: matchMedia("print") };
  const ramps = Object.fromEntries(Object.entries(palettes).map(([name, stops]) => [name, ramp(stops)]));
  let maps = []; // the heatmaps on the stage
  let at = { query: null, key: null }; // the cell pointed at

{% include "viewer/weights.js" %}

{% include "viewer/colours.js" %}

{% include "viewer/words.js" %}

{% include "viewer/map.js" %}

{% include "viewer/save.js" %}

  // --- views

  const views = {
    side() {
      const [layer, head] = ["layer", "head"].map(place);
      const found = chosen().map((run) => [runs[run], headOf(run, layer, head)]);
      const here = found.map(([, entry]) => entry).filter(Boolean);
      const scale = scaleOf(Math.max(0, ...here.map((entry) => entry.top)), here.some((entry) => entry.negative > 0));
      drawLegend(scale);
      return found.map(([run, entry]) => {
        if (!entry) return element("figure", { class: "map" }, title(run), element("p", { class: "missing" }, `no ${placed({ layer, head })}`));
        const matrix = matrixOf(entry);
        const words = (query, key) => said(matrix.weights[query * matrix.side + key], matrix.least);
        return heatmap(run, matrix, scale, title(run, entry.mechanism, placed(entry)), caption(entry), words);
      });
    },

    difference() {
      const [layer, head] = ["layer", "head"].map(place);
      const other = form.elements.other.value === "same" ? [layer, head] : form.elements.other.value.split(".").map(Number);
      const sides = [[form.elements.a.value, layer, head], [form.elements.b.value, ...other]];
      const [a, b] = sides.map((side) => headOf(...side));
      const refused = (why) => [element("p", { class: "missing" }, why)];
      if (!a || !b) return refused("One of the two runs has no such layer and head.");
      const [first, second] = [runs[a.run], runs[b.run]];
      if (first.pieces.join("\0") !== second.pieces.join("\0") || first.pool !== second.pool) return refused("The two runs read the prompt as different tokens, so there is no difference to show.");
      const matrices = [matrixOf(a), matrixOf(b)];
      const between = difference(...matrices);
      const seen = between.weights.filter((weight) => !Number.isNaN(weight)).map(Math.abs);
      const largest = seen.reduce((most, size) => Math.max(most, size), 0);
      const own = scaleOf(Math.max(a.top, b.top), true);
      const scale = { ...scaleOf(largest, true, "A − B: red where A weighs more, blue where B does"), differs: number(own.high) };
      drawLegend(scale);
      const value = (matrix) => (query, key) => said(matrix.weights[query * matrix.side + key], matrix.least);
      const words = (query, key) => {
        const found = between.weights[query * between.side + key];
        return Number.isNaN(found) ? "not visible" : `${found > 0 ? "+" : ""}${number(found)}  (A ${value(matrices[0])(query, key)}, B ${value(matrices[1])(query, key)})`;
      };
      const panel = (letter, entry, matrix) => {
        const signed = a.negative > 0 || b.negative > 0;
        const heading = title(runs[entry.run], entry.mechanism, placed(entry));
        heading.prepend(`${letter}: `);
        return heatmap(runs[entry.run], matrix, { ...own, signed, ramp: signed ? own.ramp : ramps.sequential }, heading, caption(entry), value(matrix));
      };
      const mean = seen.reduce((sum, size) => sum + size, 0) / seen.length;
      const heading = element("h4", {}, "A − B");
      const note = element("p", { class: "caption" }, `largest |A − B| ${number(largest)} · mean ${number(mean)}${first.pool > 1 ? " · of pooled weights" : ""}`);
      return [heatmap(first, between, scale, heading, note, words), panel("A", a, matrices[0]), panel("B", b, matrices[1])];
    },

    grid() {
      const shown = chosen();
      const heads = shown.flatMap((run) => runs[run].layers.flatMap((layer) => layer.heads));
      const scale = scaleOf(Math.max(0, ...heads.map((head) => head.top)), heads.some((head) => head.negative > 0));
      drawLegend(scale);
      const by = form.elements.sort.value;
      return shown.map((run) => {
        const label = title(runs[run], runs[run].label, "below each head: sink · entropy · zeros");
        if (by !== "place") return element("figure", { class: "all" }, label, element("div", { class: "sorted" }, ...sorted(run, by).map(([value, entry]) => thumbnail(entry, scale, [placed(entry), ...(by === "apart" ? [`apart ${value == null ? "–" : number(value)}`] : [])]))));
        const count = Math.max(...runs[run].layers.map((layer) => layer.heads.length));
        const top = element("tr", {}, element("th", {}, ""), ...Array.from({ length: count }, (_, head) => element("th", { scope: "col" }, `head ${head}`)));
        const rows = runs[run].layers.map((layer, number) => element("tr", {}, element("th", { scope: "row" }, `layer ${number}`), ...layer.heads.map((entry) => element("td", {}, thumbnail(headOf(run, number, entry.head), scale)))));
        return element("figure", { class: "all" }, label, element("div", { class: "scroll" }, element("table", {}, element("thead", {}, top), element("tbody", {}, ...rows))));
      });
    },
  };

  // The heads of a run with what they are sorted by, the first of an order first; those beyond the bound are left out, those without a value come last.
  function sorted(run, by) {
    const { of, down } = ORDERS[by], bound = parseFloat(form.elements.bound.value);
    const heads = runs[run].layers.flatMap((layer, number) => layer.heads.map((entry) => headOf(run, number, entry.head)));
    const others = (entry) => chosen().map((other) => headOf(other, entry.layer, entry.head)).filter(Boolean);
    return heads
      .map((entry) => [of(entry, others(entry)), entry])
      .filter(([value]) => Number.isNaN(bound) || (value != null && (down ? value >= bound : value <= bound)))
      .sort(([a], [b]) => (a == null) - (b == null) || (down ? b - a : a - b));
  }

  function thumbnail(entry, scale, above = []) {
    const { run, layer, head } = entry;
    const picture = bitmap(pooled(matrixOf(entry), 64), scale);
    const shape = [entry.sink, entry.entropy].map((value) => (value == null ? "–" : value.toFixed(2)));
    const words = [...shape, `${(100 * entry.zeros).toFixed(0)}%`].join(" · ");
    const button = element("button", { type: "button", class: "thumbnail", "aria-label": `${runs[run].name}, layer ${layer}, head ${head}: open`, title: `residual ${number(entry.residual)}` }, picture, ...[...above, words].map((line) => element("small", {}, line)));
    button.addEventListener("click", () => {
      form.elements.layer.value = layer;
      form.elements.head.value = head;
      form.elements.view.value = "side";
      render();
      root.scrollIntoView({ block: "start" });
    });
    return button;
  }

  function place(name) {
    const { value } = form.elements[name];
    return value === MEAN ? MEAN : Number(value);
  }

  function chosen() {
    return [...form.querySelectorAll("[name=run]:checked")].map((box) => Number(box.value));
  }

  function render() {
    const view = form.elements.view.value;
    for (const field of form.querySelectorAll("[data-views]")) field.hidden = !field.dataset.views.split(" ").includes(view);
    const order = ORDERS[form.elements.sort.value];
    form.elements.bound.disabled = !order;
    form.querySelector(".bound").textContent = order && !order.down ? "at most" : "at least";
    maps = [];
    legend.replaceChildren();
    stage.className = `stage ${view}`;
    stage.replaceChildren(...views[view]());
    if (!stage.childElementCount) stage.append(element("p", { class: "missing" }, "No run is chosen."));
    at.query ??= Math.max(0, Math.ceil(runs[0].pieces.length / runs[0].pool) - 1);
    for (const map of maps) map.say();
    // Where the viewer is a page of its own, its address leads back to what is shown.
    if (tracked) history.replaceState(null, "", `#${new URLSearchParams(new FormData(form))}`);
  }

  function restore() {
    const wanted = new URLSearchParams(tracked ? location.hash.slice(1) : "");
    for (const name of new Set(wanted.keys())) {
      const field = form.elements[name];
      if (name === "run") for (const box of form.querySelectorAll("[name=run]")) box.checked = wanted.getAll("run").includes(box.value);
      else if (field?.type === "number") field.value = wanted.get(name);
      else if (field && [...(field.options ?? field)].some((option) => option.value === wanted.get(name))) field.value = wanted.get(name);
    }
  }

  function step(name, by) {
    const field = form.elements[name];
    // The mean, last of all, is no step.
    const count = field.length - 1;
    field.selectedIndex = field.selectedIndex === count ? (by < 0 ? count - 1 : 0) : (field.selectedIndex + by + count) % count;
    render();
  }

  form.addEventListener("input", render);
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const button of form.querySelectorAll("[data-step]")) button.addEventListener("click", () => step(button.dataset.step, Number(button.value)));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input[type=number]")) return;
    if (!tracked && !root.contains(document.activeElement)) return; // the report has other readers of keys
    const next = (name) => {
      const fields = [...form.querySelectorAll(`[name=${name}]`)];
      fields[(fields.findIndex((field) => field.checked) + 1) % fields.length].checked = true;
      render();
    };
    const keys = { h: () => step("head", -1), l: () => step("head", 1), k: () => step("layer", -1), j: () => step("layer", 1), s: () => next(form.elements.view.value === "difference" ? "between" : "scale"), v: () => next("view") };
    keys[event.key]?.();
  });
  let width = 0;
  new ResizeObserver(() => {
    if (stage.clientWidth !== width) for (const map of maps) map.paint();
    width = stage.clientWidth;
  }).observe(stage);
  for (const query of Object.values(media)) query.addEventListener("change", render);
  restore();
  render();
})();
