// A bar to step by: buttons, a slider over all steps, and a banner. State: words {name: hint}, resting {name: why}, playing, floor, now, last, step,
// slider (label), banner [class, strong, text]. To Python: {type: "move", name}, {type: "go", step}, {type: "motion", reduced}.
// One wish of the slider travels at a time; while it is on its way only the newest of the later ones is kept.

const SHAPES = {
  start: "M3,3v10M13,3l-5,5 5,5zM8,3l-5,5 5,5z", "back-over": "M4,3v10M12,3l-7,5 7,5z", back: "M10,3l-5,5 5,5", play: "M4,2.5l9,5.5-9,5.5z", pause: "M5,3v10M11,3v10",
  forward: "M6,3l5,5-5,5", "forward-over": "M12,3v10M4,3l7,5-7,5z", end: "M13,3v10M3,3l5,5-5,5zM8,3l5,5-5,5z",
};

export default {
  render({ model, el }) {
    el.classList.add("pasidlab", "pl-time");
    const make = (name, parent, cls = "") => Object.assign(parent.appendChild(document.createElement(name)), { className: cls });
    const bar = make("div", el, "pl-travel"), banner = make("div", el);
    const strong = make("strong", banner), rest = make("span", banner);
    banner.setAttribute("role", "status");
    let link = null, wanted = null, timer = 0;
    const button = (name) => {
      const b = make("button", bar, `pl-go pl-go-${name}`);
      b.type = "button";
      b.setAttribute("data-lm-suppress-shortcuts", "true");
      b.innerHTML = '<svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true"><path/></svg>';
      b.addEventListener("click", () => { if (b.getAttribute("aria-disabled") !== "true") link.send({ type: "move", name }); });
      return [name, b];
    };
    const buttons = new Map(["start", "back-over", "back"].map(button));
    const input = make("input", bar);
    Object.assign(input, { type: "range", step: 1 });
    input.setAttribute("data-lm-suppress-shortcuts", "true");
    ["play", "forward", "forward-over", "end"].map(button).forEach(([name, b]) => buttons.set(name, b));
    const step = make("span", bar, "pl-step");

    const send = () => {
      clearTimeout(timer);
      timer = setTimeout(answered, 500);
      link.send({ type: "go", step: wanted });
    };
    const answered = (now) => {
      clearTimeout(timer);
      timer = 0;
      if (wanted !== null && now !== undefined && now !== wanted) send();
      else wanted = null;
    };
    const draw = (state) => {
      input.max = state.last;
      input.min = state.floor;
      if (wanted === null || wanted === state.now) input.value = state.now;
      input.disabled = state.floor === state.last;
      input.setAttribute("aria-label", state.slider);
      input.setAttribute("aria-valuetext", state.step);
      step.textContent = state.step;
      banner.className = `pl-banner ${state.banner[0]}`;
      strong.textContent = state.banner[1];
      rest.textContent = state.banner[2];
      for (const [name, b] of buttons) {
        const shown = name === "play" && state.playing ? "pause" : name, why = state.resting[name];
        b.title = why ? `${state.words[shown]}. ${why}` : state.words[shown];
        b.setAttribute("aria-label", b.title);
        b.setAttribute("aria-disabled", Boolean(why));
        b.querySelector("path").setAttribute("d", SHAPES[shown]);
      }
      if (timer) answered(state.now);
    };
    input.addEventListener("input", () => {
      wanted = +input.value;
      if (!timer) send();
    });
    link = connect(model, el, draw);
    const motion = globalThis.matchMedia?.("(prefers-reduced-motion: reduce)");
    const told = () => link.send({ type: "motion", reduced: reducedMotion() });
    motion?.addEventListener("change", told);
    told();
    return () => { clearTimeout(timer); motion?.removeEventListener("change", told); link.close(); };
  },
};
