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

// Paper has nothing to unfold.
addEventListener("beforeprint", () => document.querySelectorAll("section > details").forEach((details) => (details.open = true)));
