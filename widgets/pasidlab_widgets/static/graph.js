// A graph: the drawing comes from Python once for each topology; afterwards only classes and texts change. When a new drawing comes, what both
// have moves from its old place to its new one, what is new fades in, and what is gone fades out.
// State: drawing {svg, width, height} | null, seats {key: "x y"} (tokens, which may have moved since), plan (DOT to lay out here, where Python has no `dot`), states {key: classes},
// texts {key: [lines]}, hints {key: words}, selected (key), sight (key of the box to bring into sight), label, duration (ms), height (css length).

const SVG = "http://www.w3.org/2000/svg";
const LAYERS = ["frame", "edge", "node", "caption"];
const NUMBER = /-?\d*\.?\d+/g;
const numbers = (text) => (text ?? "").match(NUMBER)?.map(Number) ?? [];

// ---- tweens: functions of t (0..1) that write one attribute ----

const mix = (a, b, t) => Math.round((a + (b - a) * t) * 10) / 10;

// Two strings with the same words and different numbers.
function textTween(from, to) {
  const a = numbers(from), b = numbers(to);
  if (!b.length || a.length !== b.length) return null;
  return (t) => {
    let at = 0;
    return to.replace(NUMBER, () => { const v = mix(a[at], b[at], t); at += 1; return v; });
  };
}

// Two ways "Mx,yC..." of cubic curves; the one with fewer curves has its longest ones halved until both have as many.
function wayTween(from, to) {
  const a = curves(from), b = curves(to);
  if (!a.length || !b.length) return null;
  const length = (c) => Math.hypot(c[6] - c[0], c[7] - c[1]);
  const grow = (list, size) => {
    while (list.length < size) {
      let at = 0;
      list.forEach((c, i) => { if (length(c) > length(list[at])) at = i; });
      list.splice(at, 1, ...halves(list[at]));
    }
  };
  grow(a, b.length);
  grow(b, a.length);
  return (t) => b.map((c, i) => {
    const q = c.map((v, k) => mix(a[i][k], v, t));
    return `${i ? "" : `M${q[0]},${q[1]}`}C${q[2]},${q[3]} ${q[4]},${q[5]} ${q[6]},${q[7]}`;
  }).join("");
}

function curves(way) {
  const v = numbers(way), list = [];
  for (let i = 2; i + 5 < v.length; i += 6) list.push(v.slice(i - 2, i + 6));
  return list;
}

function halves(c) {
  const [x0, y0, x1, y1, x2, y2, x3, y3] = c, m = (p, q) => (p + q) / 2;
  const ax = m(x0, x1), ay = m(y0, y1), bx = m(x1, x2), by = m(y1, y2), cx = m(x2, x3), cy = m(y2, y3);
  const dx = m(ax, bx), dy = m(ay, by), ex = m(bx, cx), ey = m(by, cy), fx = m(dx, ex), fy = m(dy, ey);
  return [[x0, y0, ax, ay, dx, dy, fx, fy], [fx, fy, ex, ey, cx, cy, x3, y3]];
}

// Makes `old` equal to `next` (same tag names), and returns what has to be animated: [element, attribute, tween, end].
function morph(old, next, motions) {
  const before = [...old.children], after = [...next.children];
  if (before.length !== after.length || before.some((e, i) => e.nodeName !== after[i].nodeName)) {
    old.replaceChildren(...after);
    return;
  }
  before.forEach((element, i) => {
    for (const { name, value } of [...after[i].attributes]) {
      const was = element.getAttribute(name);
      if (was === value) continue;
      const tween = was === null ? null : element.classList.contains("way") && name === "d" ? wayTween(was, value) : textTween(was, value);
      element.setAttribute(name, value);
      if (tween && name !== "class") motions.push([element, name, tween, value]);
    }
    if (element.childElementCount || after[i].childElementCount) morph(element, after[i], motions);
    else if (element.textContent !== after[i].textContent) element.textContent = after[i].textContent;
  });
}

// ---- the drawing on the page ----

class Stage {
  constructor(box, pick) {
    this.items = new Map();
    this.motions = [];
    this.frame = 0;
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("role", "group");
    this.layers = Object.fromEntries(LAYERS.map((name) => {
      const g = document.createElementNS(SVG, "g");
      this.svg.append(g);
      return [name, g];
    }));
    this.svg.addEventListener("click", (event) => pick(event.target.closest("g.node, g.edge")));
    this.svg.addEventListener("keydown", (event) => this.key(event, pick));
    box.append(this.svg);
  }

  // A new drawing. Returns nothing; the caller sets classes and texts afterwards.
  draw(drawing, duration) {
    this.finish();
    const parsed = new DOMParser().parseFromString(drawing.svg, "image/svg+xml");
    if (parsed.querySelector("parsererror")) throw new Error("the drawing is not SVG");
    parsed.querySelectorAll("script, foreignObject").forEach((e) => e.remove());
    const first = !this.items.size, next = new Map();
    for (const g of parsed.documentElement.children) {
      const kind = g.classList[0];
      if (LAYERS.includes(kind)) next.set(`${kind} ${g.dataset.key}`, { kind, key: g.dataset.key, g });
    }
    const moving = !first && !reducedMotion() && !document.hidden ? duration : 0;
    for (const [id, item] of this.items) if (!next.has(id)) this.leave(id, item, moving);
    let previous = {};
    for (const [id, item] of next) {
      const old = this.items.get(id);
      const kept = old ? this.change(old, item) : this.enter(id, item, moving);
      const layer = this.layers[item.kind], after = previous[item.kind];
      if (!after ? layer.firstChild !== kept : after.nextSibling !== kept) layer.insertBefore(kept, after ? after.nextSibling : layer.firstChild);
      previous[item.kind] = kept;
    }
    this.width = drawing.width;
    this.full = drawing.height;
    this.svg.style.width = `${drawing.width}px`;
    this.svg.style.minWidth = `${Math.round(drawing.width * 0.7)}px`;
    this.run(moving);
  }

  enter(id, item, moving) {
    this.items.set(id, item);
    if (item.kind === "node") makePickable(item.g);
    if (moving) this.motions.push([item.g, "opacity", (t) => Math.round(t * 100) / 100, null]);
    return item.g;
  }

  leave(id, item, moving) {
    this.items.delete(id);
    if (!moving) { item.g.remove(); return; }
    item.g.style.pointerEvents = "none";
    this.motions.push([item.g, "opacity", (t) => Math.round((1 - t) * 100) / 100, null, () => item.g.remove()]);
  }

  change(old, item) {
    const was = old.g.getAttribute("transform"), now = item.g.getAttribute("transform");
    if (was !== now) {
      old.g.setAttribute("transform", now);
      this.motions.push([old.g, "transform", textTween(was, now), now]);
    }
    old.g.setAttribute("class", item.g.getAttribute("class"));
    old.classes = undefined;
    morph(old.g, item.g, this.motions);
    return old.g;
  }

  // Tokens glide to their seats; the drawing stays.
  seat(places, duration) {
    const moved = [];
    for (const [key, place] of Object.entries(places)) {
      const g = this.items.get(`node ${key}`)?.g, now = `translate(${place})`;
      const was = g && this.ending(g, "transform");
      if (g && was !== now) moved.push([g, was, now]);
    }
    if (!moved.length) return;
    this.finish();
    for (const [g, was, now] of moved) this.motions.push([g, "transform", textTween(was, now), now]);
    this.run(!reducedMotion() && !document.hidden ? duration : 0);
  }

  run(duration) {
    if (!this.motions.length) return;
    if (!duration) { this.finish(); return; }
    const start = performance.now(), ease = (t) => 1 - (1 - t) ** 3;
    const step = (now) => {
      const t = Math.min(1, Math.max(0, (now - start) / duration));
      if (t >= 1) { this.finish(); return; }
      for (const [element, name, tween] of this.motions) element.setAttribute(name, tween(ease(t)));
      this.frame = requestAnimationFrame(step);
    };
    for (const [element, name, tween] of this.motions) element.setAttribute(name, tween(0));
    this.frame = requestAnimationFrame(step);
  }

  finish() {
    cancelAnimationFrame(this.frame);
    const motions = this.motions;
    this.motions = [];
    for (const [element, name, , end, done] of motions) {
      if (end === null) element.removeAttribute(name); else element.setAttribute(name, end);
      done?.();
    }
  }

  // The cheap way, taken by nearly every step: classes, texts, hints. Nothing is laid out or parsed.
  say({ states, texts, hints, label }) {
    for (const item of this.items.values()) {
      const wanted = states[item.key] ?? "";
      if (item.classes !== wanted) {
        if (item.classes === undefined) item.g.classList.remove(...[...item.g.classList].filter((c) => /^(s-|is-changed$)/.test(c)));
        setClasses(item.g, item.classes, wanted);
        item.classes = wanted;
        item.absent = wanted.includes("s-absent");
        item.g.setAttribute("aria-hidden", item.absent);
      }
      const lines = texts[item.key];
      if (lines && item.said !== lines) {
        item.g.querySelectorAll("text").forEach((e, i) => { if (e.textContent !== lines[i]) e.textContent = lines[i] ?? ""; });
        item.said = lines;
      }
      const hint = hints[item.key];
      if (item.kind === "node" && item.hint !== hint) {
        item.g.setAttribute("aria-label", hint);
        item.g.querySelector("title").textContent = hint;
        item.hint = hint;
      }
    }
    const shown = this.nodes();
    this.svg.setAttribute("aria-label", `${label}: ${shown.length} boxes`);
    onlyTabStop(shown.map((item) => item.g));
  }

  nodes() { return [...this.items.values()].filter((item) => item.kind === "node" && !item.absent); }

  // The drawing ends below what is present, so slots that wait for their things take no space at the bottom.
  crop(margin) {
    let low = 0;
    for (const item of this.items.values()) {
      if (item.absent || item.kind === "caption") continue;
      if (item.kind === "edge") {
        const ys = numbers(this.ending(item.g.querySelector("path.way"), "d")).filter((_, i) => i % 2);
        low = Math.max(low, ...ys, +(item.g.querySelector("text")?.getAttribute("y") ?? 0) + 2);
        continue;
      }
      const box = item.g.querySelector(item.kind === "node" ? "rect.box" : "rect");
      const y = item.kind === "node" ? numbers(this.ending(item.g, "transform"))[1] : +this.ending(box, "y");
      low = Math.max(low, y + +this.ending(box, "height"));
    }
    this.svg.setAttribute("viewBox", `${-margin} ${-margin} ${this.width} ${Math.min(this.full, (low || 24) + 2 * margin)}`);
  }

  // What an attribute will be when everything has come to rest.
  ending(g, attribute) {
    const motion = this.motions.find(([element, name]) => element === g && name === attribute);
    return motion ? motion[3] : g.getAttribute(attribute);
  }

  select(key) {
    for (const item of this.items.values()) {
      const on = key !== "" && item.key === key && (item.kind === "node" || item.kind === "edge");
      item.g.classList.toggle("is-selected", on);
      if (item.kind === "node") item.g.setAttribute("aria-pressed", on);
    }
  }

  // Scrolls within the picture's own room, never the page.
  bringIntoSight(key, room) {
    const item = this.items.get(`node ${key}`);
    if (!item || item.absent) return;
    const box = item.g.querySelector("rect.box").getBoundingClientRect(), view = room.getBoundingClientRect(), margin = 12;
    const nudge = (low, high, from, to) => (high > to ? high - to + margin : low < from ? low - from - margin : 0);
    room.scrollBy({ top: nudge(box.top, box.bottom, view.top, view.bottom), left: nudge(box.left, box.right, view.left, view.right) });
  }

  key(event, pick) {
    const here = event.target.closest?.("g.node");
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!here || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") pick(here);
    else if (way) this.walk(here, way);
    else return;
    event.preventDefault();
  }

  walk(here, [dx, dy]) {
    const middle = (g) => { const r = g.querySelector("rect.box").getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; };
    const [x, y] = middle(here), shown = this.nodes();
    let best = null, least = Infinity;
    for (const { g } of shown) {
      if (g === here) continue;
      const [gx, gy] = middle(g), along = (gx - x) * dx + (gy - y) * dy, aside = Math.abs((gx - x) * dy) + Math.abs((gy - y) * dx);
      if (along > 1 && along + 2 * aside < least) { least = along + 2 * aside; best = g; }
    }
    if (!best) return;
    onlyTabStop(shown.map((item) => item.g), best);
    best.focus();
  }
}

// Graphviz in the browser: asked for once a page, over the channel of the view that needs it first.
const ENGINE = Symbol.for("pasidlab.graphviz");
function engine(model) {
  globalThis[ENGINE] ??= new Promise((ready, failed) => {
    const got = async (message, buffers) => {
      if (message?.type !== "engine") return;
      model.off("msg:custom", got);
      if (!buffers?.length) { failed(new Error(message.text)); return; }
      const url = URL.createObjectURL(new Blob([buffers[0]], { type: "text/javascript" }));
      try { ready(await (await import(url)).load()); } catch (error) { failed(error); } finally { URL.revokeObjectURL(url); }
    };
    model.on("msg:custom", got);
    model.send({ type: "need-engine" });
  }).catch((error) => { delete globalThis[ENGINE]; throw error; });
  return globalThis[ENGINE];
}

export default {
  render({ model, el }) {
    el.classList.add("pasidlab", "pl-graph");
    const box = document.createElement("div");
    box.className = "pl-scroll";
    el.append(box);
    let link = null;
    const pick = (g) => { if (g) link.send({ type: "pick", key: g.dataset.key, kind: g.classList[0] }); };
    const stage = new Stage(box, (g) => link.guard(pick)(g));
    let asked = "";
    const layOut = async (plan) => {
      asked = plan;
      const run = await engine(model);
      if (asked === plan) link.send({ type: "layout", plan, answer: run(plan) });
    };
    const draw = (state, names) => {
      if (names.has("height")) box.style.height = state.height;
      if (names.has("duration")) el.style.setProperty("--pl-ms", `${state.duration}ms`);
      if (names.has("plan") && state.plan && state.plan !== asked) link.guard(layOut)(state.plan);
      if (!state.drawing) return;
      if (names.has("drawing")) stage.draw(state.drawing, state.duration);
      if (names.has("drawing") || names.has("seats")) stage.seat(state.seats, names.has("drawing") ? 0 : state.duration);
      stage.say(state);
      stage.crop(state.drawing.margin);
      stage.select(state.selected);
      if (names.has("sight")) stage.bringIntoSight(state.sight, box);
    };
    link = connect(model, el, draw);
    return () => { link.close(); stage.finish(); };
  },
};
