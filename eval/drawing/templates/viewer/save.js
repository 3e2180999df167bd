// --- files: a heatmap as PNG, as it stands on the page, and as SVG with every token

function tools(run, matrix, picture, canvas, name) {
  const file = name.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const button = (text, content) => {
    const made = element("button", { type: "button", "aria-label": `${text} of ${name}` }, text);
    made.addEventListener("click", () => {
      const link = element("a", { href: content(), download: `${file}.${text.toLowerCase()}` });
      link.click();
    });
    return made;
  };
  return element("p", { class: "tools" }, button("PNG", () => png(canvas)), button("SVG", () => svg(run, matrix, picture, name)));
}

// The canvas on the colour of the page.
function png(canvas) {
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const brush = copy.getContext("2d");
  brush.fillStyle = getComputedStyle(document.body).backgroundColor;
  brush.fillRect(0, 0, copy.width, copy.height);
  brush.drawImage(canvas, 0, 0);
  return copy.toDataURL("image/png");
}

function svg(run, { side }, picture, name) {
  const cell = 12, edge = 76, size = cell * side, top = 20;
  const safe = (text) => text.replace(/[&<>"]/g, (letter) => `&#${letter.charCodeAt(0)};`);
  const labels = Array.from({ length: side }, (_, index) => {
    const text = safe(token(run.pieces[index * run.pool]).slice(0, 12)), at = (index + 0.5) * cell;
    return `<text x="${edge - 4}" y="${top + at}">${text}</text><text transform="translate(${edge + at} ${top + size + 4}) rotate(-90)">${text}</text>`;
  });
  const drawing = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${edge + size + 4} ${top + size + edge}" font-family="sans-serif" font-size="10" text-anchor="end" dominant-baseline="central"><rect width="100%" height="100%" fill="#fff"/><text x="${edge}" y="9" text-anchor="start" font-size="12">${safe(name)}</text><image x="${edge}" y="${top}" width="${size}" height="${size}" style="image-rendering:pixelated" href="${picture.toDataURL("image/png")}"/>${labels.join("")}</svg>`;
  return `data:image/svg+xml;charset=utf-8,${encodeURIComponent(drawing)}`;
}
