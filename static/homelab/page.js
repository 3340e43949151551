// What pages do beyond their markup: sort lists, copy, choose without a button, keep their place.
"use strict";

document.documentElement.classList.add("scripted");

function cellKey(row, column) {
  const cell = row.cells[column];
  const key = "sort" in cell.dataset ? cell.dataset.sort : cell.textContent.trim();
  return key !== "" && !Number.isNaN(Number(key)) ? Number(key) : key.toLowerCase();
}

function sortBy(table, heading) {
  const ascending = heading.ariaSort ? heading.ariaSort === "descending" : !heading.classList.contains("number");
  const column = heading.cellIndex;
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [first, second] = [cellKey(a, column), cellKey(b, column)];
    return (first > second) - (first < second) || 0;
  });
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.ariaSort = ascending ? "ascending" : "descending";
  table.tBodies[0].append(...(ascending ? rows : rows.reverse()));
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  for (const heading of table.tHead.rows[0].cells) {
    if ("unsortable" in heading.dataset) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sortBy(table, heading));
    heading.append(button);
  }
}

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) break;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}

for (const form of document.querySelectorAll("[data-submit-on-change]")) {
  form.addEventListener("change", () => form.requestSubmit());
}

for (const form of document.querySelectorAll("form[data-stay]")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    await fetch(form.action, { method: "POST", body: new FormData(form, event.submitter), redirect: "manual" });
    location.reload();
  });
}

document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
