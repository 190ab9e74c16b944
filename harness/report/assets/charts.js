// Charts: drawn when they come near the screen, in the colours of the page.

const narrow = window.matchMedia("(max-width: 640px)");
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const PLOTLY = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };

const read = id => JSON.parse(document.getElementById(id)?.textContent ?? "null");
const trials = read("trials") ?? { ids: [], labels: [], notes: [] };
const printing = () => document.documentElement.classList.contains("printing");

// Figures name their colours as CSS variables; they are looked up each time, so that a figure follows the page.
function coloured(text) {
  const style = getComputedStyle(document.documentElement);
  return text.replace(/"var\((--[a-z0-9-]+)\)"/g, (_, name) => JSON.stringify(style.getPropertyValue(name).trim()));
}

// Plotly reads a subset of HTML in its texts; this shows a text as it is.
const markup = text => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("\n", "<br>");

function figureOf(place) {
  const blocks = document.querySelectorAll(`script[data-of="${place.id}"]`);
  const found = JSON.parse(coloured(blocks[place.dataset.variant ?? 0].textContent));
  if (narrow.matches) squeeze(found);
  for (const trace of found.data) {
    // A point that stands for a trial says which, unless its figure says something better.
    if (trace.customdata && !trace.hovertext && !trace.hovertemplate && trace.hoverinfo !== "skip") {
      trace.hovertext = trace.customdata.map(at => at === null ? "" : `<b>${markup(trials.labels[at])}</b><br>${trials.notes[at]}`);
      trace.hoverinfo = "text";
    }
  }
  return found;
}

// On a narrow screen rows have short names, and what stood inside a bar is part of its name.
function squeeze({ data, layout }) {
  layout.font.size = 11;
  // Legends have one entry a line here; the plot keeps its height.
  if (layout.showlegend !== false) layout.height += 17 * data.filter(trace => trace.showlegend !== false && trace.name).length;
  if (!layout.meta) return;
  layout.yaxis.ticktext = layout.meta.short;
  for (const trace of data) if (trace.type === "bar") trace.textposition = "none";
}

function draw(place) {
  const { data, layout } = figureOf(place);
  // Plotly would fit the paper only after it was printed.
  if (printing()) layout.width = place.clientWidth;
  place.style.minHeight = `${layout.height}px`;
  if (!place.dataset.drawn) {
    place.dataset.drawn = "yes";
    Plotly.newPlot(place, data, layout, PLOTLY);
    place.on("plotly_click", event => {
      const at = trialAt(event.points[0]);
      if (at !== null) select(at);
    });
  } else {
    Plotly.react(place, data, layout, PLOTLY);
  }
  mark(place);
}

function trialAt(point) {
  const whole = point.data.meta?.trial;
  const own = Array.isArray(point.data.customdata) ? point.customdata : undefined;
  return own ?? whole ?? null;
}

// Show which points stand for the selected trial: the others step back.
function mark(place) {
  if (!place.dataset.drawn) return;
  place.data.forEach((trace, number) => {
    if (Array.isArray(trace.customdata)) {
      const points = selected === null ? null : trace.customdata.flatMap((at, i) => at === selected ? [i] : []);
      if (points === null ? trace.selectedpoints : true) Plotly.restyle(place, { selectedpoints: [points] }, [number]);
    } else if (trace.meta?.trial !== undefined) {
      const faint = selected !== null && trace.meta.trial !== selected;
      Plotly.restyle(place, { opacity: faint ? 0.12 : trace.meta.opacity ?? 1 }, [number]);
    }
  });
}

const charts = () => document.querySelectorAll(".chart");
const redraw = () => charts().forEach(place => { if (place.dataset.drawn) draw(place); });

function startCharts() {
  const near = new IntersectionObserver(entries => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      if (!target.dataset.drawn) draw(target);
    }
  }, { rootMargin: "600px" });
  charts().forEach(place => near.observe(place));
  for (const query of [narrow, dark]) query.addEventListener("change", redraw);
  document.addEventListener("change", event => {
    const place = document.getElementById(event.target.dataset?.variantOf);
    if (!place) return;
    place.dataset.variant = event.target.value;
    draw(place);
  });
  window.addEventListener("beforeprint", () => {
    document.documentElement.classList.add("printing");
    charts().forEach(draw);
  });
  window.addEventListener("afterprint", () => {
    document.documentElement.classList.remove("printing");
    redraw();
    charts().forEach(place => Plotly.Plots.resize(place));
  });
}
