// A picture in parts: bits of a structure, cells of a directory. A part whose markup is different is patched in place, so that what stays is left alone.
// State: parts {key: markup}, order [key], size [width, height], label, selected (key), height (css length: the most that it may be high), empty.
// Whatever has a data-key can be picked; arrow keys go to the next one, up and down to the nearest.

const NS = "http://www.w3.org/2000/svg";

// Makes `old` equal to `next`, keeping elements that have the same name and as many children.
function patch(old, next) {
  const before = [...old.children], after = [...next.children];
  if (before.length !== after.length || before.some((e, i) => e.nodeName !== after[i].nodeName)) { old.replaceChildren(...next.childNodes); return; }
  before.forEach((element, i) => {
    const wanted = after[i], kept = new Set(["role", "tabindex", "data-lm-suppress-shortcuts", "aria-pressed", "aria-label"]);
    for (const { name, value } of [...wanted.attributes]) if (element.getAttribute(name) !== value) element.setAttribute(name, value);
    for (const { name } of [...element.attributes]) if (!wanted.hasAttribute(name) && !kept.has(name)) element.removeAttribute(name);
    if (element.childElementCount || wanted.childElementCount) patch(element, wanted);
    else if (element.textContent !== wanted.textContent) element.textContent = wanted.textContent;
  });
}

export default {
  render({ model, el }) {
    el.classList.add("pasidlab", "pl-picture");
    const box = document.createElement("div"), empty = document.createElement("div"), title = document.createElement("div");
    box.className = "pl-scroll";
    title.className = "pl-title";
    empty.className = "pl-empty";
    const svg = document.createElementNS(NS, "svg");
    svg.setAttribute("role", "group");
    box.append(svg);
    el.append(title, box, empty);
    const parts = new Map();
    let link = null;

    const items = () => [...svg.querySelectorAll("[data-key]")];
    const drawParts = (state) => {
      for (const [key, part] of parts) if (!(key in state.parts)) { part.g.remove(); parts.delete(key); }
      const fresh = state.order.filter((key) => parts.get(key)?.markup !== state.parts[key]);      // parsed together: once is cheap
      const markup = fresh.map((key) => `<g>${state.parts[key]}</g>`).join("");
      const parsed = new DOMParser().parseFromString(`<svg xmlns="${NS}">${markup}</svg>`, "image/svg+xml");
      if (parsed.querySelector("parsererror")) throw new Error("the picture is not SVG");
      parsed.querySelectorAll("script, foreignObject").forEach((e) => e.remove());
      const drawn = [...parsed.documentElement.children];
      fresh.forEach((key, i) => {
        if (!parts.has(key)) parts.set(key, { g: document.createElementNS(NS, "g") });
        patch(parts.get(key).g, drawn[i]);
        parts.get(key).markup = state.parts[key];
      });
      state.order.forEach((key, i) => { if (svg.children[i] !== parts.get(key).g) svg.insertBefore(parts.get(key).g, svg.children[i] ?? null); });
      const all = items();
      for (const g of all) {
        if (!g.hasAttribute("tabindex")) makePickable(g);
        const label = g.querySelector("title")?.textContent ?? g.dataset.key;
        if (g.getAttribute("aria-label") !== label) g.setAttribute("aria-label", label);
      }
      onlyTabStop(all, all.includes(document.activeElement) ? document.activeElement : undefined);
    };
    const draw = (state, names) => {
      if (names.has("height")) box.style.maxHeight = state.height;
      const none = !state.order.length;
      box.hidden = none;
      empty.hidden = !none;
      empty.textContent = none ? state.empty : "";
      title.textContent = none ? "" : state.label;
      title.hidden = none || !state.label;
      svg.setAttribute("aria-label", state.label);
      const [width, height] = state.size;
      svg.setAttribute("viewBox", `-2 -2 ${width + 2} ${height + 2}`);
      svg.style.width = `${width}px`;
      svg.style.minWidth = `${Math.round(width * 0.66)}px`;
      if (names.has("parts") || names.has("order")) {
        const focused = document.activeElement?.closest?.("[data-key]")?.dataset.key, inside = svg.contains(document.activeElement);
        drawParts(state);
        if (inside && !svg.contains(document.activeElement)) items().find((g) => g.dataset.key === focused)?.focus();
      }
      for (const g of items()) {
        const on = state.selected !== "" && g.dataset.key === state.selected;
        g.classList.toggle("is-selected", on);
        g.setAttribute("aria-pressed", on);
      }
    };
    const pick = (g) => { if (g) link.send({ type: "pick", key: g.dataset.key, kind: "part" }); };
    const nearest = (here, down) => {
      const r = here.getBoundingClientRect(), x = r.x + r.width / 2, y = r.y + r.height / 2;
      let best = null, least = Infinity;
      for (const g of items()) {
        const s = g.getBoundingClientRect(), along = (s.y + s.height / 2 - y) * down, aside = Math.abs(s.x + s.width / 2 - x);
        if (along > 2 && along * 2 + aside < least) { least = along * 2 + aside; best = g; }
      }
      return best;
    };
    const key = (event) => {
      const g = event.target.closest?.("[data-key]");
      if (!g || event.ctrlKey || event.metaKey || event.altKey) return;
      const all = items(), at = all.indexOf(g);
      const next = { ArrowRight: () => all[at + 1], ArrowLeft: () => all[at - 1], ArrowDown: () => nearest(g, 1), ArrowUp: () => nearest(g, -1) }[event.key];
      if (event.key === "Enter" || event.key === " ") pick(g);
      else if (next) { const to = next(); if (to) { onlyTabStop(all, to); to.focus(); } }
      else return;
      event.preventDefault();
    };
    svg.addEventListener("click", (event) => link.guard(pick)(event.target.closest("[data-key]")));
    svg.addEventListener("keydown", (event) => link.guard(key)(event));
    link = connect(model, el, draw);
    return () => link.close();
  },
};
