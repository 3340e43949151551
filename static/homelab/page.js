// What pages do beyond their markup: sort lists, copy, choose without a button, keep their place.
"use strict";

document.documentElement.classList.add("scripted");
document.querySelector("#navigation [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });

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

// On the document: a chart is exchanged with its form.
document.addEventListener("change", (event) => event.target.closest("[data-submit-on-change]")?.requestSubmit());

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

// Filter a list by what its items say.
for (const field of document.querySelectorAll("[data-filter]")) {
  field.hidden = false;
  field.addEventListener("input", applyFilters);
}

function applyFilters() {
  for (const field of document.querySelectorAll("[data-filter]")) {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const items = [...document.querySelector(field.dataset.filter).children];
    for (const item of items) {
      const text = item.textContent.toLowerCase();
      item.hidden = !words.every((word) => text.includes(word));
    }
    const note = document.querySelector(`[data-no-match="${field.dataset.filter}"]`);
    if (note) note.hidden = items.some((item) => !item.hidden);
  }
}

// Keep what is live up to date: each item keeps its place, and only its contents are exchanged.
function exchange(old, fresh) {
  const byKey = new Map([...fresh.children].filter((item) => item.dataset.key).map((item) => [item.dataset.key, item]));
  if (!byKey.size) {
    const isRead = [...old.children].some((child) => child.scrollTop) || old.contains(document.activeElement);
    if (!isRead) old.replaceChildren(...fresh.childNodes);
    return;
  }
  for (const item of [...old.children]) {
    const next = byKey.get(item.dataset.key);
    if (!next) item.remove();
    else if (!item.contains(document.activeElement)) item.replaceWith(next);
    byKey.delete(item.dataset.key);
  }
  old.append(...byKey.values());
}

async function refresh() {
  if (document.hidden) return;
  const answer = await fetch(location, { headers: { "X-Requested-With": "refresh" } });
  if (!answer.ok || answer.redirected) throw new Error(answer.statusText);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(part.id);
    if (fresh) exchange(part, fresh);
  }
  window.refreshChart?.(page);
  applyFilters();
  refreshed = new Date();
  document.getElementById("stale")?.remove();
}

// The hub is away, or has signed one out: what the page says is as old as it is.
function tellStale() {
  const note = document.getElementById("stale") ?? document.createElement("p");
  note.id = "stale";
  note.className = "stale";
  note.role = "status";
  note.textContent = `Not updated since ${refreshed.toLocaleTimeString()}: the hub does not answer, or you are signed out.`;
  if (!note.isConnected) document.querySelector("main").prepend(note);
}

let refreshed = new Date();
if (document.querySelector("[data-live]")) setInterval(() => refresh().catch(tellStale), 30_000);

// A machine that is being added: ask until it has spoken.
for (const note of document.querySelectorAll("[data-waiting]")) {
  const timer = setInterval(async () => {
    const { server } = await (await fetch(note.dataset.waiting)).json();
    if (!server) return;
    const link = document.createElement("a");
    link.href = server.url;
    link.textContent = server.name;
    const text = note.querySelector("[data-text]");
    if (server.state !== "online") return text.replaceChildren(link, " has its key. Waiting for its first heartbeat.");
    clearInterval(timer);
    note.classList.add("arrived");
    const state = note.querySelector(".state");
    state.className = "state state-online";
    state.querySelector("use").setAttribute("href", "#state-online");
    state.lastChild.textContent = " online";
    text.replaceChildren(link, " reports. That is all.");
  }, 2000);
}
