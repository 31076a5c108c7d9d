"use strict";

const numeric = (value) => (Array.isArray(value) ? value[0] : value);

const key = (body, column) => {
  const value = numeric(JSON.parse(body.rows[0].cells[column].dataset.value));
  return value === undefined ? null : value;
};

const compare = (a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b)));

// A click sorts upwards, the next one downwards; what has no value stays last.
const sort = (table, head, column) => {
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const bodies = [...table.tBodies].sort((one, two) => {
    const [a, b] = [key(one, column), key(two, column)];
    if (a === null || b === null) return (a === null) - (b === null);
    return down ? compare(b, a) : compare(a, b);
  });
  table.append(...bodies);
};

for (const table of document.querySelectorAll("table.verdicts")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => sort(table, head, column));
  });
}

// Pointing at an arm anywhere fades the marks of the others everywhere.
const faded = document.querySelectorAll("figure [data-arm], .answers [data-arm], .verdicts [data-arm], .key [data-arm]");
let shown = null;
document.addEventListener("pointerover", (event) => {
  if (event.pointerType !== "mouse") return;
  const near = event.target.closest("[data-arm]");
  const arm = near && near.dataset.arm !== "" ? near.dataset.arm : null;
  if (arm === shown) return;
  shown = arm;
  for (const mark of faded) mark.classList.toggle("faded", arm !== null && mark.dataset.arm !== arm);
});

// Paper cannot unfold anything.
const opened = new Set();
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    opened.add(details);
    details.open = true;
  }
});
addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
  opened.clear();
});
