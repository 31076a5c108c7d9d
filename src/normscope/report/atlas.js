"use strict";

const form = document.querySelector("form");
const table = document.querySelector(".matrix");
const selects = [...form.querySelectorAll("select")];
const entries = [...table.querySelectorAll(".entry")];
const seen = (element) => element.querySelector(".entry:not([hidden])") !== null;

const count = (names) => {
  const table = new Map();
  for (const name of names) table.set(name, (table.get(name) || 0) + 1);
  return [...table].map(([name, many]) => (many === 1 ? name : `${name} \u00d7${many}`)).join(", ");
};

// The sentence of a norm says what the cells that are shown say, and no more.
const say = (body) => {
  const parts = [...body.querySelectorAll(".said [data-outcome]")];
  for (const part of parts) {
    const cells = [...body.querySelectorAll(`.entry[data-outcome="${part.dataset.outcome}"]:not([hidden])`)];
    part.hidden = cells.length === 0;
    part.querySelector("b").textContent = cells.length;
    part.querySelector("span").textContent = count(cells.map((cell) => cell.closest("td").dataset.task));
  }
  const shown = parts.filter((part) => !part.hidden);
  for (const part of shown) part.lastChild.data = part === shown.at(-1) ? ")." : "), ";
};

const apply = () => {
  const wanted = selects.filter((select) => select.value !== "");
  for (const entry of entries) entry.hidden = wanted.some((select) => entry.dataset[select.name] !== select.value);
  const heads = [...table.tHead.rows[0].cells];
  for (const [column, head] of heads.entries()) {
    const cells = [...table.querySelectorAll(`td[data-column="${column}"]`)];
    head.hidden = !cells.some(seen);
    for (const cell of cells) cell.hidden = head.hidden;
  }
  for (const body of table.tBodies) {
    body.hidden = !seen(body);
    body.rows[0].cells[0].colSpan = heads.filter((head) => !head.hidden).length || 1;
    say(body);
  }
  const left = entries.filter((entry) => !entry.hidden).length;
  form.querySelector("[role=status]").textContent = `${left} of ${entries.length} results are shown.`;
};

form.hidden = false;
form.addEventListener("change", apply);
// A browser may remember the choice of the last visit.
apply();
