// One trial is selected everywhere: in tables, in charts, in the bar at the bottom, in the page's address.

let selected = null;

const rowOf = at => document.getElementById(`trial-${trials.ids[at]}`);

function select(at) {
  for (const row of document.querySelectorAll("tr.selected")) row.classList.remove("selected");
  selected = at;
  history.replaceState(null, "", at === null ? location.pathname + location.search : `#trial-${trials.ids[at]}`);
  if (at !== null) {
    rowOf(at)?.classList.add("selected");
    for (const link of document.querySelectorAll(`a[href="#trial-${CSS.escape(trials.ids[at])}"]`)) link.closest("tr")?.classList.add("selected");
  }
  describe(at);
  charts().forEach(mark);
}

// What the table says of the trial, in one line.
function describe(at) {
  const bar = document.getElementById("selection");
  if (!bar) return;
  bar.hidden = at === null;
  if (at === null) return;
  const row = rowOf(at), heads = row ? row.closest("table").tHead.rows[0].cells : [];
  bar.querySelector(".name").textContent = trials.labels[at];
  const facts = row ? Array.from(row.cells).slice(2).flatMap((cell, i) => {
    const head = heads[i + 2], value = plain(cell);
    return value === "–" ? [] : [`${plain(head.querySelector("button").firstChild)} ${value} ${plain(head.querySelector("small") ?? element("i"))}`.trim()];
  }) : [];
  bar.querySelector(".facts-line").textContent = facts.join(" · ");
  bar.querySelector("[data-command]").textContent = trials.commands[at] ?? "";
  bar.querySelector(".command-line").hidden = !trials.commands[at];
}

// Bring the row of the selected trial into view, whatever was filtered.
function reveal() {
  const row = selected === null ? null : rowOf(selected);
  if (!row) return;
  const table = row.closest("table"), filter = document.querySelector(`[data-filter="${table.id}"]`);
  if (row.hidden) {
    if (filter) filter.value = "";
    table.dataset.all = "yes";
    show(table);
  }
  row.scrollIntoView({ block: "center", behavior: "instant" });
  row.querySelector("a")?.focus({ preventScroll: true });
}

function followAddress() {
  const at = trials.ids.indexOf(decodeURIComponent(location.hash).replace(/^#trial-/, ""));
  if (at < 0) return;
  select(at);
  reveal();
}

function startSelection() {
  document.addEventListener("click", event => {
    const link = event.target.closest('a[href^="#trial-"]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const at = trials.ids.indexOf(link.getAttribute("href").slice("#trial-".length));
    if (at < 0) return;
    event.preventDefault();
    select(at === selected ? null : at);
  });
  document.addEventListener("keydown", event => {
    if (event.key === "Escape" && selected !== null) select(null);
  });
  window.addEventListener("hashchange", followAddress);
  followAddress();
}
