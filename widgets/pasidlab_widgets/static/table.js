// A table: rows are recognised by key, a cell whose text changes flashes, a new row fades in.
// State: title, columns [[key, title, mono, wrap]], order [key], rows {key: [state, [cells], [changed column keys]]}, empty, flash, selected (key), height.

export default {
  render({ model, el }) {
    el.classList.add("pasidlab", "pl-table");
    const box = document.createElement("div");
    box.className = "pl-scroll";
    const table = document.createElement("table"), caption = table.createCaption(), head = table.createTHead(), body = table.createTBody();
    box.append(table);
    el.append(box);
    const rows = new Map();
    let link = null, first = true;

    const heads = (state) => {
      const tr = document.createElement("tr");
      for (const [, title] of state.columns) {
        const th = document.createElement("th");
        th.scope = "col";
        th.textContent = title;
        tr.append(th);
      }
      head.replaceChildren(tr);
      rows.clear();
      body.replaceChildren();
    };
    // A sentence may break anywhere but within "-ENOSPC".
    const write = (td, text) => {
      if (!td.classList.contains("prose")) { td.textContent = text; return; }
      td.replaceChildren(...text.split(/(-[A-Z]{3,})/).map((part, i) => {
        if (i % 2 === 0) return part;
        return Object.assign(document.createElement("span"), { className: "whole", textContent: part });
      }));
    };
    const makeRow = (key, state) => {
      const tr = document.createElement("tr");
      tr.dataset.key = key;
      if (!first && state.flash) tr.classList.add("is-new");
      for (const [name, , mono, wrap] of state.columns) {
        const td = tr.insertCell();
        if (mono) td.classList.add("num");
        if (wrap) td.classList.add("prose");
        if (name === "state") td.classList.add("state");
      }
      makePickable(tr);
      tr.removeAttribute("role");
      return { tr, classes: "", flash: false };
    };
    const drawRows = (state) => {
      for (const [key, row] of rows) if (!(key in state.rows)) { row.tr.remove(); rows.delete(key); }
      body.querySelector("tr.empty")?.remove();
      let at = body.firstChild;
      for (const key of state.order) {
        const [life, cells, changed] = state.rows[key];
        let row = rows.get(key);
        const fresh = !row;
        if (fresh) { row = makeRow(key, state); rows.set(key, row); }
        setClasses(row.tr, row.classes, `s-${life}`);
        row.classes = `s-${life}`;
        cells.forEach((text, i) => {
          const td = row.tr.cells[i];
          td.classList.toggle("is-changed", changed.includes(state.columns[i][0]));
          if (td.textContent === text) return;
          write(td, text);
          if (!fresh && state.flash && !reducedMotion()) td.animate([{ backgroundColor: "var(--pl-flash)" }, { backgroundColor: "transparent" }], 900);
        });
        if (row.tr === at) at = at.nextSibling; else body.insertBefore(row.tr, at);
      }
      if (!state.order.length) {
        const td = body.insertRow().insertCell();
        td.parentElement.className = "empty";
        td.colSpan = state.columns.length;
        td.textContent = state.empty;
      }
      onlyTabStop([...rows.values()].map((row) => row.tr));
      first = false;
    };
    const draw = (state, names) => {
      if (names.has("height")) box.style.maxHeight = state.height;
      if (names.has("title")) caption.textContent = state.title;
      if (names.has("columns")) heads(state);
      if (names.has("columns") || names.has("rows") || names.has("order")) drawRows(state);
      for (const [key, row] of rows) row.tr.setAttribute("aria-selected", key === state.selected);
      const chosen = names.has("selected") && rows.get(state.selected)?.tr;
      if (chosen) reveal(box, chosen.offsetTop, chosen.offsetTop + chosen.offsetHeight, head.offsetHeight);
    };
    const pick = (tr) => { if (tr?.dataset.key) link.send({ type: "pick", key: tr.dataset.key, kind: "row" }); };
    const key = (event) => {
      const tr = event.target.closest?.("tr[data-key]");
      if (!tr || event.ctrlKey || event.metaKey || event.altKey) return;
      const next = { ArrowDown: tr.nextElementSibling, ArrowUp: tr.previousElementSibling };
      if (event.key === "Enter" || event.key === " ") pick(tr);
      else if (event.key in next) { if (next[event.key]) { onlyTabStop([...body.children], next[event.key]); next[event.key].focus(); } }
      else return;
      event.preventDefault();
    };
    body.addEventListener("click", (event) => link.guard(pick)(event.target.closest("tr")));
    body.addEventListener("keydown", (event) => link.guard(key)(event));
    link = connect(model, el, draw);
    return () => link.close();
  },
};
