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

const MEAN = "mean";

// A head of a run, or the mean of some: layer and head are numbers, or MEAN.
function headOf(run, layer, head) {
  const levels = layer === MEAN ? runs[run].layers : [runs[run].layers[layer]].filter(Boolean);
  const found = levels.flatMap((level) => (head === MEAN ? level.heads : level.heads.filter((entry) => entry.head === head)).map((entry) => ({ ...entry, level })));
  if (!found.length) return undefined;
  const one = (name) => (levels.every((level) => level[name] === levels[0][name]) ? levels[0][name] : null);
  const place = { run, layer, head, mechanism: one("mechanism") ?? runs[run].label, window: one("window") };
  return found.length === 1 ? { ...found[0], ...place } : { ...averaged(found), ...place, of: found.length };
}

// The mean of the weights of some heads, and of what is said of them; a key that one of them cannot see weighs nothing there.
function averaged(heads) {
  const parts = heads.map(unpack), weights = new Float32Array(parts[0].weights.length).fill(NaN);
  for (const part of parts) part.weights.forEach((weight, place) => {
    if (!Number.isNaN(weight)) weights[place] = (Number.isNaN(weights[place]) ? 0 : weights[place]) + weight / parts.length;
  });
  const top = weights.reduce((most, weight) => (Math.abs(weight) > most ? Math.abs(weight) : most), 0);
  const mean = (name) => (heads.some((head) => head[name] == null) ? null : heads.reduce((sum, head) => sum + head[name], 0) / heads.length);
  return { matrix: { side: parts[0].side, weights, least: 0 }, top, residual: Math.max(...heads.map((head) => head.residual)), ...Object.fromEntries(["sink", "entropy", "zeros", "negative"].map((name) => [name, mean(name)])) };
}

function matrixOf(entry) {
  return entry.matrix ?? unpack(entry);
}

// How far a head is from that of the other runs shown: half of the sum of |A - mean| over a row, the mean over rows.
function apart(entry, others) {
  const mine = matrixOf(entry), all = others.map(matrixOf);
  if (all.length < 2 || all.some((other) => other.side !== mine.side)) return null;
  let sum = 0;
  mine.weights.forEach((weight, place) => {
    sum += Math.abs((weight || 0) - all.reduce((total, other) => total + (other.weights[place] || 0), 0) / all.length);
  });
  return sum / 2 / mine.side;
}

// What heads are sorted by: the value, the first of them, and what is asked of one that is kept.
const ORDERS = {
  sink: { of: (entry) => entry.sink, down: true },
  entropy: { of: (entry) => entry.entropy, down: false },
  zeros: { of: (entry) => entry.zeros, down: true },
  apart: { of: (entry, others) => apart(entry, others), down: true },
};
