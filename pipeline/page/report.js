"use strict";

/* Sort: any header button of a table.sortable. Values are the cells' data-value, or their text; empty ones go last. */
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => {
      const header = button.parentElement;
      const column = header.cellIndex;
      const first = header.dataset.first || "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = header.getAttribute("aria-sort") === first ? other : first;
      for (const th of table.querySelectorAll("thead th")) th.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const keyed = Array.from(body.rows, (row) => {
        const cell = row.cells[column];
        const text = "value" in cell.dataset ? cell.dataset.value : cell.textContent.trim();
        const number = text === "" ? NaN : Number(text);
        return { row, text, number };
      });
      keyed.sort((a, b) => {
        if (a.text === "" || b.text === "") return (a.text === "") - (b.text === "");
        const both = !Number.isNaN(a.number) && !Number.isNaN(b.number);
        return sign * (both ? a.number - b.number : a.text.localeCompare(b.text));
      });
      body.append(...keyed.map((entry) => entry.row));
      table.dispatchEvent(new Event("sorted"));
    });
  }
}

/* Explore: every word of the filter must be in the row, and its cell must be the pressed one. */
const explorer = document.getElementById("explorer");
let explore = () => {};
if (explorer) {
  const filter = document.getElementById("row-filter");
  const said = document.getElementById("row-count");
  const buttons = Array.from(document.querySelectorAll("button[data-cell]"));
  const rows = Array.from(explorer.tBodies[0].rows, (row) => ({ row, text: row.textContent.toLowerCase() }));
  let cell = "";
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, text } of rows) {
      const hit = (!cell || row.dataset.cell === cell) && words.every((word) => text.includes(word));
      row.hidden = !hit;
      shown += hit;
    }
    said.textContent = shown === 0 ? "No row of this sample matches." : `${shown} of ${rows.length} rows`;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.cell === cell));
  };
  filter.addEventListener("input", apply);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      cell = cell === button.dataset.cell ? "" : button.dataset.cell;
      apply();
    });
  }
  explore = (words) => {
    cell = "";
    filter.value = words;
    apply();
    document.getElementById("rows").scrollIntoView();
  };
  apply();
}

/* Slices: every word of the filter must be in the row, and its column the chosen one; as many as asked for are shown. */
const parts = document.getElementById("parts");
if (parts) {
  const filter = document.getElementById("part-filter");
  const column = document.getElementById("part-column");
  const limit = document.getElementById("part-limit");
  const said = document.getElementById("part-count");
  const texts = new Map(Array.from(parts.tBodies[0].rows, (row) => [row, row.textContent.toLowerCase()]));
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let hits = 0;
    let shown = 0;
    for (const row of parts.tBodies[0].rows) {
      const hit =
        (!column.value || row.dataset.column === column.value) && words.every((word) => texts.get(row).includes(word));
      row.hidden = !hit || shown >= Number(limit.value);
      hits += hit;
      shown += !row.hidden;
    }
    said.textContent = hits === 0 ? "No slice matches." : `${shown} of ${hits} slices${hits < texts.size ? " that match" : ""}`;
  };
  for (const control of [filter, column, limit]) control.addEventListener("input", apply);
  parts.addEventListener("sorted", apply);
  apply();
}

/* Confusion: the labels with most mistakes, or those that the filter names and what they are taken for. */
const source = document.getElementById("confusion-data");
if (source) {
  const { labels, cells, totals } = JSON.parse(source.textContent);
  const box = document.getElementById("confusion-box");
  const filter = document.getElementById("label-filter");
  const most = document.getElementById("label-count");
  const counts = new Map(cells.map(([i, j, n]) => [i * labels.length + j, n]));
  const count = (i, j) => counts.get(i * labels.length + j) || 0;
  const mistakes = labels.map(() => 0);
  for (const [i, j, n] of cells) {
    if (i !== j) {
      mistakes[i] += n;
      mistakes[j] += n;
    }
  }
  const ranked = labels.map((_, i) => i).sort((a, b) => mistakes[b] - mistakes[a] || a - b);
  const make = (name, text, attributes = {}) => {
    const element = document.createElement(name);
    element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const choose = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const limit = Number(most.value);
    if (!words.length) return [ranked.slice(0, limit), ranked.slice(0, limit)];
    const rows = ranked.filter((i) => words.some((word) => labels[i].toLowerCase().includes(word))).slice(0, limit);
    const partners = ranked.filter((j) => !rows.includes(j) && rows.some((i) => count(i, j)));
    partners.sort((a, b) => Math.max(...rows.map((i) => count(i, b))) - Math.max(...rows.map((i) => count(i, a))));
    return [rows, rows.concat(partners).slice(0, Math.max(limit, rows.length))];
  };
  const draw = () => {
    const [rows, columns] = choose();
    box.replaceChildren();
    if (!rows.length) {
      box.append(make("p", "No label matches.", { class: "quiet" }));
      return;
    }
    const table = make("table", "", { class: "heat" });
    table.append(make("caption", `${rows.length} of ${labels.length} labels. Rows: reference. Columns: what the student said.`));
    const head = table.createTHead().insertRow();
    head.append(make("th", "reference", { scope: "col" }));
    for (const j of columns) {
      const th = make("th", "", { scope: "col", title: labels[j] });
      th.append(make("span", labels[j]));
      head.append(th);
    }
    if (columns.length < labels.length) head.append(make("th", "other", { scope: "col" }));
    const body = table.createTBody();
    for (const i of rows) {
      const row = body.insertRow();
      row.append(make("th", labels[i], { scope: "row", title: labels[i] }));
      let rest = totals[i];
      for (const j of columns) {
        const n = count(i, j);
        rest -= n;
        const td = make("td", "", { class: i === j ? "hit" : "miss" });
        td.style.setProperty("--share", `${n ? 12 + 68 * Math.min(1, (n / totals[i]) * (i === j ? 1 : 3)) : 0}%`);
        if (n && i !== j && explorer) {
          const button = make("button", n, { type: "button", title: `${labels[i]} taken for ${labels[j]}: ${n}; show rows` });
          button.addEventListener("click", () => explore(`${labels[i]} ${labels[j]}`));
          td.append(button);
        } else {
          td.textContent = n || "";
        }
        row.append(td);
      }
      if (columns.length < labels.length) row.append(make("td", rest || "", { class: "other" }));
    }
    box.append(table);
  };
  filter.addEventListener("input", draw);
  most.addEventListener("change", draw);
  draw();
}
