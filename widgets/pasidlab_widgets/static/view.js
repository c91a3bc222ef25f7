// Shared by every view, put in front of its own file: the channel to Python, errors that a person sees, motion, keys.
//
// A view owns no state. It asks Python for all of it when it appears, and gets what changes afterwards. The channel keeps the order, so a change
// that comes before the answer is already in it, and one that comes after it is not.
// From Python: {type: "all", view, state} and {type: "patch", set: {name: value}, merge: {name: {set: {}, drop: []}}}.
// A long message comes as {type: "packed"} with one buffer: the same, as deflated JSON. Unpacking takes a moment, so messages wait their turn.
// To Python:   {type: "need-all", view}, {type: "pick", ...}, {type: "error", text}.

const reducedMotion = () => globalThis.matchMedia?.("(prefers-reduced-motion: reduce)").matches ?? false;

function connect(model, el, draw) {
  const view = Math.random().toString(36).slice(2);
  let state = null;
  const fail = (error) => {
    console.error(error);
    const text = String(error?.message ?? error);
    let box = el.querySelector(":scope > .pl-error");
    if (!box) {
      box = document.createElement("div");
      box.className = "pl-error";
      box.setAttribute("role", "alert");
      el.prepend(box);
    }
    box.textContent = `This picture could not be drawn: ${text}`;
    model.send({ type: "error", text });
  };
  const guard = (f) => (...args) => {
    try {
      const result = f(...args);
      return result instanceof Promise ? result.catch(fail) : result;
    } catch (error) {
      fail(error);
      return undefined;
    }
  };
  const show = guard((names) => {
    draw(state, names);
    el.querySelector(":scope > .pl-error")?.remove();
    el.dataset.revision = state.revision;
  });
  let turn = Promise.resolve(), waiting = 0;
  const listen = (message, buffers) => {
    if (message?.type !== "packed" && !waiting) { hear(message); return; }
    waiting += 1;
    turn = turn.then(guard(async () => hear(message?.type === "packed" ? await unpacked(buffers[0]) : message))).finally(() => { waiting -= 1; });
  };
  const hear = (message) => {
    if (message?.type === "all" && message.view === view) {
      state = message.state;
      show(new Set(Object.keys(state)));
    } else if (message?.type === "patch" && state) {
      for (const [name, change] of Object.entries(message.merge)) {
        const next = { ...state[name], ...change.set };
        for (const key of change.drop) delete next[key];
        state[name] = next;
      }
      Object.assign(state, message.set);
      show(new Set([...Object.keys(message.set), ...Object.keys(message.merge)]));
    }
  };
  model.on("msg:custom", listen);
  model.send({ type: "need-all", view });
  return { guard, fail, send: (message) => model.send(message), close: () => model.off("msg:custom", listen) };
}

async function unpacked(buffer) {
  const stream = new Blob([buffer]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

// Classes that Python decides, beside those that the drawing and the view give; `before` is what was set last time.
function setClasses(element, before, wanted) {
  if (before === wanted) return;
  if (before) element.classList.remove(...before.split(" "));
  if (wanted) element.classList.add(...wanted.split(" "));
}

// Items that can be picked with a click, with Enter and with Space. One of them is a tab stop, arrow keys go from one to the next.
// JupyterLab takes keys in the capture phase; only this attribute on the focusable element itself keeps "a", "b", "dd" away from the notebook.
function makePickable(element, label) {
  element.setAttribute("role", "button");
  element.setAttribute("tabindex", "-1");
  element.setAttribute("data-lm-suppress-shortcuts", "true");
  if (label) element.setAttribute("aria-label", label);
}

function onlyTabStop(elements, wanted) {
  const stop = wanted ?? elements.find((e) => e.getAttribute("tabindex") === "0") ?? elements[0];
  for (const e of elements) e.setAttribute("tabindex", e === stop ? "0" : "-1");
}

// Scrolls `box`, never the page, until top..bottom (in the box's own coordinates) can be seen below `covered` pixels.
function reveal(box, top, bottom, covered) {
  const high = box.scrollTop + covered, low = box.scrollTop + box.clientHeight;
  const to = top < high ? top - covered - 8 : bottom > low ? bottom - box.clientHeight + 8 : null;
  if (to !== null) box.scrollTo({ top: Math.max(0, to), behavior: reducedMotion() ? "auto" : "smooth" });
}
