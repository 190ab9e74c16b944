"use strict";
(() => {
  const narrow = window.matchMedia("(max-width: 640px)");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // Figures name their colours as CSS variables; they are looked up each time, so that a figure follows the page.
  function figure(id) {
    const style = getComputedStyle(document.documentElement);
    const text = document.getElementById(id).textContent;
    const found = JSON.parse(text.replace(/"var\((--[a-z0-9-]+)\)"/g, (_, name) => JSON.stringify(style.getPropertyValue(name).trim())));
    if (narrow.matches) squeeze(found);
    return found;
  }

  // On a narrow screen rows have short names, and what stood inside a bar is part of its name.
  function squeeze({ data, layout }) {
    layout.font.size = 11;
    if (!layout.meta) return;
    layout.yaxis.ticktext = layout.meta.short;
    for (const trace of data) if (trace.type === "bar") trace.textposition = "none";
  }

  function draw() {
    for (const place of document.querySelectorAll(".chart")) {
      const { data, layout } = figure(place.dataset.figure);
      // Plotly would fit the paper only after it was printed.
      if (document.documentElement.classList.contains("printing")) layout.width = place.clientWidth;
      Plotly.react(place, data, layout, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] });
    }
  }

  // An empty key (no value) stays at the end in both directions.
  function compare(a, b, descending) {
    if (a === "" || b === "") return (a === "") - (b === "");
    const numbers = [Number(a), Number(b)];
    const order = numbers.some(Number.isNaN) ? a.localeCompare(b, undefined, { numeric: true }) : numbers[0] - numbers[1];
    return descending ? -order : order;
  }

  function sort(head) {
    const table = head.closest("table"), body = table.tBodies[0], at = head.cellIndex;
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const rows = Array.from(body.rows, row => [row.cells[at].dataset.key ?? row.cells[at].textContent, row]);
    rows.sort((a, b) => compare(a[0], b[0], descending));
    body.append(...rows.map(pair => pair[1]));
  }

  async function copy(button) {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      getSelection().selectAllChildren(source);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  document.addEventListener("click", event => {
    const button = event.target.closest("button");
    if (button?.dataset.copy) copy(button);
    else if (button?.closest(".sortable thead")) sort(button.closest("th"));
  });

  if (window.Plotly) {
    draw();
    for (const query of [narrow, dark]) query.addEventListener("change", draw);
    window.addEventListener("beforeprint", () => {
      document.documentElement.classList.add("printing");
      draw();
    });
    window.addEventListener("afterprint", () => {
      document.documentElement.classList.remove("printing");
      draw();
      document.querySelectorAll(".chart").forEach(place => Plotly.Plots.resize(place));
    });
  }
})();
