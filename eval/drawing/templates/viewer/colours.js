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
  return { high: high || 1, signed, words, log: form.elements[form.elements.view.value === "difference" ? "between" : "scale"].value === "log", ramp: ramps[signed ? (dark ? "dark" : "light") : "sequential"] };
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
