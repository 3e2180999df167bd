"use strict";

// Sorting: all tables have a row for each run, so they are put into one order together.
const tables = [...document.querySelectorAll("table.sortable")];
for (const table of tables) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const rows = [...table.tBodies[0].rows].sort((a, b) => compare(a.cells[column], b.cells[column], down ? -1 : 1));
      const order = rows.map((row) => row.dataset.run);
      for (const other of tables) {
        const body = other.tBodies[0];
        const byRun = Object.fromEntries([...body.rows].map((row) => [row.dataset.run, row]));
        order.forEach((run) => body.append(byRun[run]));
        for (const cell of other.tHead.rows[0].cells) cell.setAttribute("aria-sort", "none");
      }
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  });
}

// What is missing comes last in either direction.
function compare(a, b, sign) {
  const [x, y] = [a.dataset.sort, b.dataset.sort];
  if (x === "" || y === "") return (x === "") - (y === "");
  const number = a.classList.contains("number");
  return sign * (number ? x - y : x.localeCompare(y));
}

// Heatmaps: the weight under the pointer, in words.
const pieces = JSON.parse(document.getElementById("pieces")?.textContent ?? "{}");
for (const map of document.querySelectorAll("figure.map")) {
  const [left, top, width, height] = map.dataset.box.split(" ").map(Number);
  const tokens = pieces[map.dataset.run];
  const output = map.querySelector("output");
  const picture = map.querySelector(".picture");
  let weights = null;
  picture.addEventListener("pointermove", (event) => {
    weights ??= JSON.parse(map.querySelector("script").textContent);
    const frame = picture.getBoundingClientRect();
    const place = (at, start, size) => Math.floor(((at - start) / size) * tokens.length);
    const key = place((event.clientX - frame.left) / frame.width, left, width);
    const query = place((event.clientY - frame.top) / frame.height, top, height);
    const weight = weights[query]?.[key];
    if (key < 0 || query < 0 || key >= tokens.length || query >= tokens.length) return;
    const value = document.createElement("b");
    value.textContent = weight == null ? "not visible" : weight === 0 ? "exactly 0" : weight.toPrecision(3);
    output.replaceChildren(`${query} ${quote(tokens[query])} → ${key} ${quote(tokens[key])}: `, value);
  });
}

function quote(token) {
  return `“${token.replace(/\n/g, "↵")}”`;
}

// Paper has nothing to unfold.
addEventListener("beforeprint", () => document.querySelectorAll("section > details").forEach((details) => (details.open = true)));
