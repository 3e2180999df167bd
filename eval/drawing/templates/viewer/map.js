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
    const font = Math.max(6.5, Math.min(12, 0.95 * cell)), every = Math.ceil(font / cell);
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
  return element("figure", { class: "map" }, heading, note, canvas, tools(run, matrix, picture, canvas, heading.textContent), output, strip);
}

// Runs with the same tokens are pointed at together.
function point(run, query, key) {
  at = { query, key };
  for (const map of maps) if (map.pieces.length === run.pieces.length) map.say();
}
