// Tables: sorted by their headings, filtered by words, shortened, with columns to choose, and as CSV.

const SHOWN = 200;

// An empty key (no value) stays at the end in both directions.
function compare(a, b, descending) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const numbers = [Number(a), Number(b)];
  const order = numbers.some(Number.isNaN) ? a.localeCompare(b, undefined, { numeric: true }) : numbers[0] - numbers[1];
  return descending ? -order : order;
}

const keyOf = cell => cell.dataset.key ?? cell.textContent.trim();

function sort(head) {
  const table = head.closest("table"), body = table.tBodies[0], at = head.cellIndex;
  const descending = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = Array.from(body.rows, row => [keyOf(row.cells[at]), row]);
  rows.sort((a, b) => compare(a[0], b[0], descending));
  body.append(...rows.map(pair => pair[1]));
  show(table);
}

// Rows that hold every word of the filter, the first of them unless all were asked for.
function show(table) {
  const words = (document.querySelector(`[data-filter="${table.id}"]`)?.value ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  const limit = table.dataset.all ? Infinity : SHOWN;
  let fits = 0;
  for (const row of table.tBodies[0].rows) {
    const text = words.length ? row.textContent.toLowerCase() : "";
    const fit = words.every(word => text.includes(word));
    row.hidden = !fit || ++fits > limit;
  }
  const total = table.tBodies[0].rows.length;
  const count = document.querySelector(`[data-count="${table.id}"]`);
  if (count) count.textContent = fits === total ? `${total.toLocaleString("en")} rows` : `${fits.toLocaleString("en")} of ${total.toLocaleString("en")} rows`;
  const more = document.querySelector(`[data-more="${table.id}"]`);
  if (more) {
    more.hidden = fits <= limit;
    more.textContent = `Show all ${fits.toLocaleString("en")}`;
  }
}

function chooseColumns(table) {
  const boxes = document.querySelectorAll(`[data-column-of="${table.id}"]`);
  const hidden = Array.from(boxes).filter(box => !box.checked).map(box => `#${table.id} tr > :nth-child(${box.value})`);
  const style = document.getElementById(`${table.id}-columns`) ?? document.head.appendChild(Object.assign(document.createElement("style"), { id: `${table.id}-columns` }));
  style.textContent = hidden.length ? `${hidden.join(", ")} { display: none; }` : "";
}

const quoted = value => /[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;

function download(name, lines) {
  const text = lines.map(line => line.map(value => quoted(String(value ?? ""))).join(",")).join("\r\n");
  const address = URL.createObjectURL(new Blob([text + "\r\n"], { type: "text/csv" }));
  Object.assign(document.createElement("a"), { href: address, download: `${name}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

const plain = element => element.textContent.replace(/\s+/g, " ").trim();

// A table as lines: what is shown, but numbers as they were before they were rounded.
function linesOf(table) {
  const number = /^-?[0-9.]+(e[-+]?[0-9]+)?$/i;
  const lines = Array.from(table.tBodies[0].rows, row => Array.from(row.cells, cell => {
    const key = cell.dataset.key;
    return key !== undefined && number.test(key) ? key : cell.dataset.key === "" ? "" : plain(cell);
  }));
  return [Array.from(table.tHead.rows[0].cells, plain), ...lines];
}

function element(name, text, attributes = {}) {
  const made = Object.assign(document.createElement(name), attributes);
  if (text !== undefined) made.textContent = text;
  return made;
}

const shown = value => typeof value === "number" ? (Number.isInteger(value) ? value.toLocaleString("en") : Number(value.toPrecision(5)).toLocaleString("en", { maximumSignificantDigits: 5 })) : value ?? "–";

// The table behind a chart is made when it is opened.
function fill(details) {
  if (details.dataset.filled) return;
  details.dataset.filled = "yes";
  const { columns, rows } = read(details.dataset.table);
  const table = element("table", undefined, { className: "sortable", id: `${details.dataset.table}-shown` });
  const head = table.createTHead().insertRow();
  columns.forEach((name, at) => {
    const cell = head.appendChild(element("th", undefined, { scope: "col" }));
    if (rows.some(row => typeof row[at] === "number")) cell.className = "number";
    cell.append(element("button", name, { type: "button" }));
  });
  const body = table.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    row.forEach((value, at) => {
      const cell = line.appendChild(element("td", shown(value)));
      if (typeof value === "number" || value === null) cell.dataset.key = value ?? "";
      if (head.cells[at].className) cell.className = "number";
    });
  }
  const scroll = element("div", undefined, { className: "scroll", tabIndex: 0 });
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "Table behind the chart");
  scroll.append(table);
  const more = element("button", "", { type: "button", className: "quiet" });
  more.dataset.more = table.id;
  details.append(scroll, more);
  show(table);
}

function csv(button) {
  const behind = button.dataset.csv && read(button.dataset.csv);
  if (behind) return download(button.dataset.name, [behind.columns, ...behind.rows]);
  return download(button.dataset.name, linesOf(document.getElementById(button.dataset.csvOf)));
}

function startTables() {
  document.addEventListener("toggle", event => {
    if (event.target.open && event.target.dataset?.table) fill(event.target);
  }, true);
  document.addEventListener("input", event => {
    const table = document.getElementById(event.target.dataset?.filter ?? event.target.dataset?.columnOf);
    if (!table) return;
    if (event.target.dataset.columnOf) chooseColumns(table);
    else show(table);
  });
  for (const table of document.querySelectorAll("table[data-short]")) {
    if (narrow.matches) {
      for (const box of document.querySelectorAll(`[data-column-of="${table.id}"][data-detail]`)) box.checked = false;
    }
    chooseColumns(table);
    show(table);
  }
}
