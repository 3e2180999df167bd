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

// The shape of a head's rows; what checks it is folded.
function caption(head) {
  const shape = ["sink", "entropy"].filter((name) => head[name] != null).map((name) => `${name} ${head[name].toFixed(2)}`);
  const parts = [...shape, `zeros ${(100 * head.zeros).toFixed(0)}%`];
  if (head.negative > 0) parts.push(`negative ${(100 * head.negative).toFixed(0)}%`);
  if (head.window) parts.push(`window ${head.window}`);
  const pool = runs[head.run].pool;
  const checks = [`${head.of ? "largest " : ""}residual ${number(head.residual)}`, ...(head.of ? [`mean of ${head.of} heads`] : []), ...(pool > 1 ? [`each cell the largest of ${pool} × ${pool}`] : [])];
  return element("details", { class: "caption" }, element("summary", {}, parts.join(" · ")), checks.join(" · "));
}

function called(name, place) {
  return place === MEAN ? `mean of ${name}s` : `${name} ${place}`;
}

function placed({ layer, head }) {
  return `${called("layer", layer)}, ${called("head", head)}`;
}
