// The slider over all steps. State: floor, now, last, label. To Python: {type: "go", step}.
// One wish travels at a time; while it is on its way only the newest of the later ones is kept.

export default {
  render({ model, el }) {
    el.classList.add("pasidlab", "pl-slider");
    const input = Object.assign(document.createElement("input"), { type: "range", step: 1 });
    input.setAttribute("data-lm-suppress-shortcuts", "true");
    el.append(input);
    let link = null, wanted = null, timer = 0;
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
      input.setAttribute("aria-label", state.label);
      input.setAttribute("aria-valuetext", `${state.now} / ${state.last}`);
      if (timer) answered(state.now);
    };
    input.addEventListener("input", () => {
      wanted = +input.value;
      if (!timer) send();
    });
    link = connect(model, el, draw);
    return () => { clearTimeout(timer); link.close(); };
  },
};
