// A ladder: a heading that stays in sight, and rows that scroll. Rows are recognised by key: what stays is left alone, what is new fades in.
// State: title, width, head, headHeight, bodyHeight, lanes [x], rows {key: [y, height, words, svg]}, marks {key: classes}, present (key), empty, height.

export default {
  render({ model, el }) {
    el.classList.add("pasidlab", "pl-ladder");
    const box = document.createElement("div"), empty = document.createElement("div");
    box.className = "pl-scroll";
    empty.className = "pl-empty";
    const ns = "http://www.w3.org/2000/svg";
    const make = (name, parent) => parent.appendChild(document.createElementNS(ns, name));
    const head = make("svg", box), body = make("svg", box), lines = make("g", body), list = make("g", body);
    head.classList.add("pl-head");
    head.setAttribute("aria-hidden", "true");
    body.setAttribute("role", "group");
    el.append(box, empty);
    const rows = new Map();
    let link = null, revealed = null, seen = null, wide = 0;

    const parse = (markup) => new DOMParser().parseFromString(`<svg xmlns="${ns}">${markup}</svg>`, "image/svg+xml");
    const fill = (element, markup) => {
      const parsed = parse(markup);
      if (parsed.querySelector("parsererror")) throw new Error("the ladder is not SVG");
      element.replaceChildren(...parsed.documentElement.childNodes);
    };
    const size = (svg, width, height) => {
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.style.width = `${width}px`;
      svg.style.minWidth = `${Math.round(width * 0.7)}px`;
    };
    const drawRows = (state) => {
      for (const [key, row] of rows) if (!(key in state.rows)) { row.g.remove(); rows.delete(key); }
      const order = Object.entries(state.rows).sort((a, b) => a[1][0] - b[1][0]);
      const fresh = order.filter(([key, [, , , svg]]) => rows.get(key)?.svg !== svg);       // parsed together: once is cheap, thirty times is not
      const parsed = parse(fresh.map(([, [, , , svg]]) => `<g>${svg}</g>`).join(""));
      if (parsed.querySelector("parsererror")) throw new Error("the ladder is not SVG");
      const drawn = new Map([...parsed.documentElement.children].map((g, at) => [fresh[at][0], g]));
      for (const [key, [y, height, words, svg]] of order) {
        let row = rows.get(key);
        if (!row) {
          row = { g: document.createElementNS(ns, "g"), classes: "" };
          row.g.dataset.key = key;
          row.g.classList.add("row", "is-new");
          makePickable(row.g);
          rows.set(key, row);
        }
        if (row.svg !== svg) { row.g.replaceChildren(...drawn.get(key).childNodes); row.svg = svg; }
        if (row.y !== y) { row.g.setAttribute("transform", `translate(0 ${y})`); row.y = y; }
        row.height = height;
        row.g.setAttribute("aria-label", words);
        list.append(row.g);
      }
    };
    const mark = (state) => {
      for (const [key, row] of rows) {
        const wanted = state.marks[key] ?? "";
        setClasses(row.g, row.classes, wanted);
        row.classes = wanted;
        row.g.setAttribute("aria-current", key === state.present ? "step" : "false");
      }
      const present = rows.get(state.present), all = [...rows.values()].map((row) => row.g);
      onlyTabStop(all, all.includes(document.activeElement) ? document.activeElement : present?.g);
    };
    const follow = (state) => {
      seen = state;
      const present = rows.get(state.present);
      if (!present || revealed === present.g) return;
      revealed = present.g;
      const scale = body.clientWidth / state.width || 1, top = head.clientHeight + present.y * scale;
      reveal(box, top, top + present.height * scale, head.clientHeight);
    };
    const draw = (state, names) => {
      if (names.has("height")) box.style.maxHeight = state.height;
      const none = !Object.keys(state.rows).length;
      empty.textContent = none ? state.empty : "";
      box.hidden = none;
      empty.hidden = !none;
      if (names.has("title")) body.setAttribute("aria-label", state.title);
      if (names.has("head")) fill(head, state.head);
      if (["width", "headHeight", "bodyHeight", "lanes"].some((name) => names.has(name))) {
        size(head, state.width, state.headHeight);
        size(body, state.width, state.bodyHeight);
        fill(lines, state.lanes.map((x) => `<path class="lane" d="M${x},0V${state.bodyHeight}"/>`).join(""));
      }
      if (names.has("rows")) { drawRows(state); revealed = null; }
      mark(state);
      follow(state);
    };
    const pick = (g) => { if (g) link.send({ type: "pick", key: g.dataset.key, kind: "row" }); };
    const key = (event) => {
      const g = event.target.closest?.("g.row");
      if (!g || event.ctrlKey || event.metaKey || event.altKey) return;
      const next = { ArrowDown: g.nextElementSibling, ArrowUp: g.previousElementSibling, Home: list.firstElementChild, End: list.lastElementChild };
      if (event.key === "Enter" || event.key === " ") pick(g);
      else if (event.key in next) { if (next[event.key]) { onlyTabStop([...list.children], next[event.key]); next[event.key].focus(); } }
      else return;
      event.preventDefault();
    };
    body.addEventListener("click", (event) => link.guard(pick)(event.target.closest("g.row")));
    body.addEventListener("keydown", (event) => link.guard(key)(event));
    const sizes = new ResizeObserver(() => {       // rows grow and shrink with the width, and have none while the picture is hidden
      if (!seen || body.clientWidth === wide) return;
      wide = body.clientWidth;
      revealed = null;
      follow(seen);
    });
    sizes.observe(box);
    link = connect(model, el, draw);
    return () => { sizes.disconnect(); link.close(); };
  },
};
