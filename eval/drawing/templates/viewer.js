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

  // --- weights

  // The inverse of `pack` in eval/heatmap_cells.py: weights by rows, NaN where invisible.
  function unpack({ top, cells }) {
    const bytes = Uint8Array.from(atob(cells), (letter) => letter.charCodeAt(0));
    const codes = new DataView(bytes.buffer);
    const side = (Math.sqrt(4 * bytes.length + 1) - 1) / 2;
    const weights = new Float32Array(side * side).fill(NaN);
    for (let query = 0, place = 0; query < side; query++) {
      for (let key = 0; key <= query; key++, place += 2) {
        const code = codes.getUint16(place, true), size = code & ~SIGN;
        if (size === HIDDEN) continue;
        const sign = code & SIGN ? -1 : 1;
        weights[query * side + key] = size && sign * top * 2 ** ((size - LARGEST) / STEPS);
      }
    }
    return { side, weights, least: top * 2 ** ((1 - LARGEST) / STEPS) };
  }

  // The largest of each block by magnitude, so that a thumbnail drops no bright line.
  function pooled({ side, weights }, most) {
    const factor = Math.ceil(side / most), small = Math.ceil(side / factor);
    const kept = new Float32Array(small * small).fill(NaN);
    for (let query = 0; query < side; query++) {
      for (let key = 0; key <= query; key++) {
        const place = Math.floor(query / factor) * small + Math.floor(key / factor);
        const weight = weights[query * side + key];
        if (Number.isNaN(kept[place]) || Math.abs(weight) > Math.abs(kept[place])) kept[place] = weight;
      }
    }
    return { side: small, weights: kept };
  }

  // a - b; a key that only one of the two can see weighs nothing in the other.
  function difference(a, b) {
    const weights = a.weights.map((weight, place) => {
      const other = b.weights[place];
      return Number.isNaN(weight) && Number.isNaN(other) ? NaN : (weight || 0) - (other || 0);
    });
    return { side: a.side, weights };
  }

  function headOf(run, layer, head) {
    const found = runs[run].layers[layer]?.heads[head];
    return found && { ...found, run, layer, mechanism: runs[run].layers[layer].mechanism, window: runs[run].layers[layer].window };
  }

  // --- colours

  function ramp(stops) {
    const parts = stops.map((stop) => [1, 3, 5].map((place) => parseInt(stop.slice(place, place + 2), 16)));
    return Array.from({ length: 257 }, (_, step) => {
      const place = (step / 256) * (parts.length - 1), low = Math.floor(place);
      const high = Math.min(low + 1, parts.length - 1);
      return parts[low].map((part, channel) => Math.round(part + (place - low) * (parts[high][channel] - part)));
    });
  }

  // One scale for all that is shown: it ends at the largest magnitude, and diverges from zero where weights are negative.
  function scaleOf(high, signed, words = "attention weight") {
    const dark = media.dark.matches && !media.print.matches;
    return { high: high || 1, signed, words, log: form.elements.scale.value === "log", ramp: ramps[signed ? (dark ? "dark" : "light") : "sequential"] };
  }

  function share(weight, { high, log }) {
    const part = Math.min(1, Math.abs(weight) / high);
    return log ? Math.max(0, 1 + Math.log10(part) / decades) : part;
  }

  function colour(weight, scale) {
    if (Number.isNaN(weight)) return [0, 0, 0, 0];
    if (weight === 0 && !scale.differs) return ZERO;
    const place = weight === 0 ? 0 : share(weight, scale);
    return scale.ramp[Math.round(256 * (scale.signed ? (1 + Math.sign(weight) * place) / 2 : place))].concat(255);
  }

  function bitmap({ side, weights }, scale) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = side;
    const image = new ImageData(side, side);
    weights.forEach((weight, place) => image.data.set(colour(weight, scale), 4 * place));
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  function drawLegend(scale) {
    const stops = scale.ramp.filter((_, step) => step % 16 === 0).map((part) => `rgb(${part})`);
    const places = scale.log ? Array.from({ length: decades + 1 }, (_, step) => 10 ** (step - decades)) : [0, 0.25, 0.5, 0.75, 1];
    const sizes = places.filter((_, step) => !scale.signed || step % 2 === 0);
    const ends = scale.signed ? [...sizes.filter(Boolean).map((size) => -size).reverse(), ...sizes] : sizes;
    const ticks = ends.map((size, step) => {
      const left = scale.signed ? (size < 0 ? -1 : 1) * share(size * scale.high, scale) * 50 + 50 : share(size * scale.high, scale) * 100;
      // Both signs meet in the middle of a diverging log scale: one label says so.
      if (scale.signed && left === 50 && size < 0) return null;
      const text = (scale.signed && left === 50 && scale.log ? "±" : "") + number(size * scale.high).replace(/(\.\d*?)0+$/, "$1").replace(/\.(?=e|$)/, "");
      const prefix = scale.log && !scale.signed && step === 0 ? "≤ " : "";
      return element("span", { style: `left:${left}%` }, prefix + text);
    });
    const zero = scale.differs ? [] : [element("i", { class: "swatch" }), "exactly 0 "];
    legend.replaceChildren(
      element("div", { class: "bar", style: `background:linear-gradient(90deg,${stops})` }),
      element("div", { class: "ticks" }, ...ticks.filter(Boolean)),
      element("p", {}, `${scale.words}; ${scale.log ? "log" : "linear"} scale${scale.differs ? `; A and B share one of their own, up to ${scale.differs}` : ", one for all that is shown"}. `, ...zero, element("i", { class: "swatch blank" }), "not visible to the query"),
    );
  }

  // --- words

  function number(weight) {
    const size = Math.abs(weight);
    const text = size === 0 ? "0" : size < 1e-3 || size >= 1e5 ? size.toExponential(size < 1e-3 ? 1 : 2) : size.toPrecision(3);
    return (weight < 0 ? "−" : "") + text;
  }

  function said(weight, least = 0) {
    if (Number.isNaN(weight)) return "not visible";
    if (weight === 0) return "exactly 0";
    return Math.abs(weight) <= 1.0005 * least ? `not zero, at most ${number(least)}` : number(weight);
  }

  function token(piece) {
    return piece.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/[ ▁]/g, "·") || "∅";
  }

  // The tokens behind a row or column of cells.
  function tokens({ pieces, pool }, cell) {
    const first = cell * pool, last = Math.min(first + pool, pieces.length) - 1;
    return first === last
      ? `${first} “${token(pieces[first])}”`
      : `${first}–${last} “${pieces.slice(first, last + 1).map(token).join("")}”`;
  }

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function title(run, ...after) {
    const words = after.filter((word) => word !== run.name).join(", ");
    return element("h4", {}, element("i", { class: "dot", style: `background:${run.colour}` }), run.name, element("span", { class: "label" }, words));
  }

  function caption(head) {
    const parts = [`residual ${number(head.residual)}`, `exact zeros ${(100 * head.zeros).toFixed(0)}%`];
    if (head.negative > 0) parts.push(`negative ${(100 * head.negative).toFixed(0)}%`);
    if (head.window) parts.push(`window ${head.window}`);
    if (runs[head.run].pool > 1) parts.push(`each cell the largest of ${runs[head.run].pool} × ${runs[head.run].pool}`);
    return element("p", { class: "caption" }, parts.join(" · "));
  }

  // --- one heatmap: its picture, the weight pointed at, and the prompt coloured by what one query attends to

  function heatmap(run, matrix, scale, heading, note, words) {
    const canvas = element("canvas", { tabindex: 0, role: "img", "aria-label": `${heading.textContent}: attention weights; arrow keys move` });
    const output = element("output", { "aria-live": "polite" });
    const strip = element("p", { class: "strip" });
    const spans = run.pieces.map((piece, place) => {
      const span = element("span", {}, piece.replace(/▁/g, " "));
      span.addEventListener("pointerenter", () => point(run, Math.floor(place / run.pool), null));
      span.addEventListener("click", () => point(run, Math.floor(place / run.pool), null));
      return span;
    });
    strip.append(...spans);
    const picture = bitmap(matrix, scale);
    const weight = (query, key) => matrix.weights[query * matrix.side + key];
    const inside = (cell) => cell >= 0 && cell < matrix.side;
    let longest = 0; // label, in pixels
    const margin = () => Math.min(longest + 8, 0.18 * canvas.clientWidth);

    function paint() {
      const measure = document.createElement("canvas").getContext("2d");
      measure.font = `10px ${getComputedStyle(canvas).fontFamily}`;
      longest ||= Math.max(...run.pieces.map((piece) => measure.measureText(token(piece)).width));
      const width = canvas.clientWidth, edge = margin(), size = width - edge, cell = size / matrix.side;
      const ratio = devicePixelRatio, style = getComputedStyle(canvas);
      canvas.width = canvas.height = Math.round(width * ratio);
      canvas.dataset.edge = edge; // where the cells begin, for tests
      const brush = canvas.getContext("2d");
      brush.setTransform(ratio, 0, 0, ratio, 0, 0);
      brush.imageSmoothingEnabled = false;
      brush.drawImage(picture, edge, 0, size, size);
      const font = Math.max(8, Math.min(12, 0.9 * cell)), every = Math.ceil((font + 1) / cell);
      brush.font = `${font}px ${style.fontFamily}`;
      brush.textBaseline = "middle";
      brush.textAlign = "right";
      const label = (text, chosen) => {
        brush.fillStyle = chosen ? style.color : style.getPropertyValue("--soft");
        let shown = token(text);
        while (shown.length > 1 && brush.measureText(shown).width > edge - 6) shown = `${shown.slice(0, -2)}…`;
        brush.fillText(shown, 0, 0);
      };
      for (let index = 0; index < matrix.side; index++) {
        const named = index === at.query || index === at.key;
        // A label that is pointed at replaces its neighbours.
        const near = [at.query, at.key].some((cell) => cell !== null && cell !== index && Math.abs(cell - index) < every);
        if (!named && (index % every || near)) continue;
        const text = run.pieces[index * run.pool];
        if (index % every === 0 || index === at.query) {
          brush.save();
          brush.translate(edge - 4, Math.max(font / 2, (index + 0.5) * cell));
          label(text, index === at.query);
          brush.restore();
        }
        if (index % every === 0 || index === at.key) {
          brush.save();
          brush.translate(edge + (index + 0.5) * cell, size + 4);
          brush.rotate(-Math.PI / 2);
          label(text, index === at.key);
          brush.restore();
        }
      }
      if (!inside(at.query ?? -1)) return;
      brush.strokeStyle = style.color;
      brush.lineWidth = 1;
      brush.strokeRect(edge - 0.5, at.query * cell - 0.5, size + 1, cell + 1);
      if (inside(at.key ?? -1)) brush.strokeRect(edge + at.key * cell - 0.5, -0.5, cell + 1, size + 1);
    }

    function say() {
      paint();
      if (!inside(at.query ?? -1)) return;
      const row = Array.from({ length: at.query + 1 }, (_, key) => [weight(at.query, key), key]);
      spans.forEach((span, place) => {
        const [query, key] = [at.query, Math.floor(place / run.pool)];
        const paintIt = key <= query && !Number.isNaN(weight(query, key));
        const [red, green, blue, alpha] = paintIt ? colour(weight(query, key), scale) : [0, 0, 0, 0];
        span.style.background = paintIt ? `rgb(${red} ${green} ${blue} / ${alpha / 255})` : "";
        span.style.color = alpha === 255 ? (0.3 * red + 0.59 * green + 0.11 * blue > 140 ? "#000" : "#fff") : "";
        span.className = key === query ? "query" : key === at.key ? "key" : key > query ? "later" : "";
      });
      const most = row.filter(([found]) => found).sort(([a], [b]) => Math.abs(b) - Math.abs(a)).slice(0, 4);
      const keys = most.map(([found, key]) => `${tokens(run, key)} ${said(found, matrix.least)}`).join(" · ");
      const lines = inside(at.key ?? -1)
        ? [`${tokens(run, at.query)} → ${tokens(run, at.key)}: `, element("b", {}, words(at.query, at.key))]
        : [element("b", {}, tokens(run, at.query)), " →"];
      output.replaceChildren(element("span", { class: "cell" }, ...lines), element("span", { class: "most" }, `most: ${keys || "nothing"}`));
    }

    for (const kind of ["pointermove", "pointerdown"]) {
      canvas.addEventListener(kind, (event) => {
        const frame = canvas.getBoundingClientRect(), edge = margin(), size = frame.width - edge;
        const key = Math.floor(((event.clientX - frame.left - edge) / size) * matrix.side);
        const query = Math.floor(((event.clientY - frame.top) / size) * matrix.side);
        if (inside(query) && inside(key)) point(run, query, key);
      });
    }
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const moved = (cell, by) => Math.max(0, Math.min(matrix.side - 1, cell + by));
      point(run, moved(at.query, step[0]), moved(at.key ?? at.query, step[1]));
    });
    maps.push({ pieces: run.pieces, say, paint });
    return element("figure", { class: "map" }, heading, note, canvas, output, strip);
  }

  // Runs with the same tokens are pointed at together.
  function point(run, query, key) {
    at = { query, key };
    for (const map of maps) if (map.pieces.length === run.pieces.length) map.say();
  }

  // --- views

  const views = {
    side() {
      const [layer, head] = ["layer", "head"].map((name) => Number(form.elements[name].value));
      const found = chosen().map((run) => [runs[run], headOf(run, layer, head)]);
      const here = found.map(([, entry]) => entry).filter(Boolean);
      const scale = scaleOf(Math.max(0, ...here.map((entry) => entry.top)), here.some((entry) => entry.negative > 0));
      drawLegend(scale);
      return found.map(([run, entry]) => {
        if (!entry) return element("figure", { class: "map" }, title(run), element("p", { class: "missing" }, `no layer ${layer}, head ${head}`));
        const matrix = unpack(entry);
        const words = (query, key) => said(matrix.weights[query * matrix.side + key], matrix.least);
        return heatmap(run, matrix, scale, title(run, entry.mechanism, `layer ${layer}, head ${head}`), caption(entry), words);
      });
    },

    difference() {
      const [layer, head] = ["layer", "head"].map((name) => Number(form.elements[name].value));
      const other = form.elements.other.value === "same" ? [layer, head] : form.elements.other.value.split(".").map(Number);
      const sides = [[form.elements.a.value, layer, head], [form.elements.b.value, ...other]];
      const [a, b] = sides.map((side) => headOf(...side));
      const refused = (why) => [element("p", { class: "missing" }, why)];
      if (!a || !b) return refused("One of the two runs has no such layer and head.");
      const [first, second] = [runs[a.run], runs[b.run]];
      if (first.pieces.join("\0") !== second.pieces.join("\0") || first.pool !== second.pool) return refused("The two runs read the prompt as different tokens, so there is no difference to show.");
      const matrices = [unpack(a), unpack(b)];
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
        const heading = title(runs[entry.run], entry.mechanism, `layer ${entry.layer}, head ${entry.head}`);
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
      return shown.map((run) => {
        const count = Math.max(...runs[run].layers.map((layer) => layer.heads.length));
        const top = element("tr", {}, element("th", {}, ""), ...Array.from({ length: count }, (_, head) => element("th", { scope: "col" }, `head ${head}`)));
        const rows = runs[run].layers.map((layer, place) => element("tr", {}, element("th", { scope: "row" }, `layer ${place}`), ...layer.heads.map((head) => element("td", {}, thumbnail(run, place, head, scale)))));
        return element("figure", { class: "all" }, title(runs[run], runs[run].label, "below each head its residual"), element("div", { class: "scroll" }, element("table", {}, element("thead", {}, top), element("tbody", {}, ...rows))));
      });
    },
  };

  function thumbnail(run, layer, entry, scale) {
    const picture = bitmap(pooled(unpack(entry), 64), scale);
    const residual = `residual ${number(entry.residual)}`;
    const button = element("button", { type: "button", class: "thumbnail", "aria-label": `${runs[run].name}, layer ${layer}, head ${entry.head}, ${residual}: open`, title: residual }, picture, element("small", {}, number(entry.residual)));
    button.addEventListener("click", () => {
      form.elements.layer.value = layer;
      form.elements.head.value = entry.head;
      form.elements.view.value = "side";
      render();
      root.scrollIntoView({ block: "start" });
    });
    return button;
  }

  function chosen() {
    return [...form.querySelectorAll("[name=run]:checked")].map((box) => Number(box.value));
  }

  function render() {
    const view = form.elements.view.value;
    for (const field of form.querySelectorAll("[data-views]")) field.hidden = !field.dataset.views.split(" ").includes(view);
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
      else if (field && [...(field.options ?? field)].some((option) => option.value === wanted.get(name))) field.value = wanted.get(name);
    }
  }

  function step(name, by) {
    const field = form.elements[name];
    field.selectedIndex = (field.selectedIndex + by + field.length) % field.length;
    render();
  }

  form.addEventListener("input", render);
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const button of form.querySelectorAll("[data-step]")) button.addEventListener("click", () => step(button.dataset.step, Number(button.value)));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return;
    if (!tracked && !root.contains(document.activeElement)) return; // the report has other readers of keys
    const next = (name) => {
      const fields = [...form.querySelectorAll(`[name=${name}]`)];
      fields[(fields.findIndex((field) => field.checked) + 1) % fields.length].checked = true;
      render();
    };
    const keys = { h: () => step("head", -1), l: () => step("head", 1), k: () => step("layer", -1), j: () => step("layer", 1), s: () => next("scale"), v: () => next("view") };
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
