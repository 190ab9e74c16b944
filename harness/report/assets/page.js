// What the buttons of a page do, and the start of everything.

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    getSelection().selectAllChildren(source);
    document.execCommand("copy");
  }
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1500);
}

document.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (!button) return;
  const { copy: source, csv: behind, csvOf, more, clear, reveal: wanted } = button.dataset;
  if (source) copy(button);
  else if (behind || csvOf) csv(button);
  else if (clear !== undefined) select(null);
  else if (wanted !== undefined) reveal();
  else if (more) {
    const table = document.getElementById(more);
    table.dataset.all = "yes";
    show(table);
  } else if (button.closest(".sortable thead")) sort(button.closest("th"));
});

startTables();
startSelection();
if (window.Plotly) startCharts();
