"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map();
  const plots = [...document.querySelectorAll(".plot")];

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  // Colours of text and lines for the scheme that is shown; axes are all that a layout has.
  function themed(layout) {
    const [text, grid, card] = ["--fg", "--grid", "--card"].map(colour);
    const found = { "font.color": text, "hoverlabel.bgcolor": card, "hoverlabel.font.color": text, "hoverlabel.bordercolor": grid };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) {
        found[`${key}.gridcolor`] = grid;
        found[`${key}.linecolor`] = grid;
      }
    }
    return found;
  }

  // Margins and letters for a phone, or those that the layout came with.
  function sized(plot) {
    const { margin, font } = drawn.get(plot);
    return plot.clientWidth < 480 ? { "margin.l": 44, "margin.r": Math.min(8, margin.r), "font.size": 11 }
      : { "margin.l": margin.l, "margin.r": margin.r, "font.size": font.size };
  }

  function set(layout, changes) {
    for (const [path, value] of Object.entries(changes)) {
      const names = path.split(".");
      const last = names.pop();
      let place = layout;
      for (const name of names) place = place[name] ??= {};
      place[last] = value;
    }
    return layout;
  }

  async function draw(plot) {
    const { data, layout } = JSON.parse(document.getElementById(plot.id.replace("-plot", "-data")).textContent);
    set(layout, themed(layout));
    drawn.set(plot, { margin: { ...layout.margin }, font: { ...layout.font } });
    set(layout, sized(plot));
    await Plotly.newPlot(plot, data, layout, { responsive: true, displaylogo: false, displayModeBar: "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] });
    plot.dataset.drawn = String(data.length);
  }

  function recolour() {
    for (const plot of plots) if (plot.layout) Plotly.relayout(plot, themed(plot.layout));
  }

  function sort(table, column, head) {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const key = (row) => {
      const cell = row.cells[column];
      return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
    };
    const rows = [...body.rows].sort((one, other) => {
      const [a, b] = [key(one), key(other)];
      const order = typeof a === "number" && typeof b === "number" ? a - b : typeof a === typeof b ? a.localeCompare(b) : typeof a === "number" ? -1 : 1;
      return down ? -order : order;
    });
    body.append(...rows);
  }

  for (const table of document.querySelectorAll("table.sorts")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => sort(table, column, head));
    });
  }

  let narrow = innerWidth < 520;
  addEventListener("resize", () => {
    if (narrow === innerWidth < 520) return;
    narrow = !narrow;
    for (const plot of plots) if (plot.layout) Plotly.relayout(plot, sized(plot));
  });
  dark.addEventListener("change", recolour);
  matchMedia("print").addEventListener("change", recolour);
  Promise.all(plots.map(draw)).then(() => { document.documentElement.dataset.ready = "yes"; });
})();
