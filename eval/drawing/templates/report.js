"use strict";

// Sorting: the rows of a table that have the same names as those of another are put into one order together.
const tables = [...document.querySelectorAll("table.sortable")];
for (const table of tables) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const rows = [...table.tBodies[0].rows].sort((a, b) => compare(a.cells[column], b.cells[column], down ? -1 : 1));
      const order = rows.map(named);
      for (const other of tables) {
        const body = other.tBodies[0];
        const byName = Object.fromEntries([...body.rows].map((row) => [named(row), row]));
        if (order.some((name) => !(name in byName))) continue;
        order.forEach((name) => body.append(byName[name]));
        for (const cell of other.tHead.rows[0].cells) cell.setAttribute("aria-sort", "none");
      }
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  });
}

function named({ dataset }) {
  return dataset.variant ?? `run ${dataset.run}`;
}

// What is missing comes last in either direction.
function compare(a, b, sign) {
  const [x, y] = [a.dataset.sort, b.dataset.sort];
  if (x === "" || y === "") return (x === "") - (y === "");
  const number = a.classList.contains("number");
  return sign * (number ? x - y : x.localeCompare(y));
}

// A table that is wider than the page says so, until its end is reached.
for (const box of document.querySelectorAll(".scroll")) {
  const look = () => box.classList.toggle("goes-on", box.scrollWidth - box.clientWidth - box.scrollLeft > 4);
  box.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(box);
}

// The navigation names the section that is read; the way back appears once there is one.
const links = [...document.querySelectorAll("nav a")];
const sections = links.map((link) => document.querySelector(link.getAttribute("href")));
function where() {
  document.body.classList.toggle("scrolled", scrollY > innerHeight / 2);
  const last = sections.findLastIndex((section) => section.getBoundingClientRect().top < 0.3 * innerHeight);
  links.forEach((link, place) => link.classList.toggle("here", place === last));
}
addEventListener("scroll", where, { passive: true });
where();

// A link into what is folded unfolds it; paper has nothing to unfold.
addEventListener("beforeprint", () => document.querySelectorAll("section > details").forEach((details) => (details.open = true)));
