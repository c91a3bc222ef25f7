// Tells Python the colours of the page; Bokeh draws on a canvas and cannot follow style sheets. Draws nothing.
// Traits: dark (bool), colours {paper, ink, grid} as #rrggbb.

// Bokeh refuses many of CSS's colours (such as rgba(0, 0, 0, .87)): paint the colour on one pixel and read what it is.
function hex(colour, under) {
  const pixel = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  for (const c of [under, colour]) { pixel.fillStyle = c; pixel.fillRect(0, 0, 1, 1); }
  return "#" + [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3).map((b) => b.toString(16).padStart(2, "0")).join("");
}

function read(model) {
  const told = document.body.dataset.jpThemeLight, style = getComputedStyle(document.body);
  const dark = told ? told === "false" : (globalThis.matchMedia?.("(prefers-color-scheme: dark)").matches ?? false);
  const named = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
  const paper = hex(named("--jp-layout-color0", dark ? "#111418" : "#ffffff"), "#ffffff");
  model.set("colours", {
    paper,
    ink: hex(named("--jp-ui-font-color1", dark ? "#e8edf2" : "#1b1f24"), paper),
    grid: hex(named("--jp-border-color2", dark ? "#3a424c" : "#d0d7de"), paper),
  });
  model.set("dark", dark);
  model.save_changes();
}

export default {
  initialize({ model }) {
    const later = () => setTimeout(() => read(model), 300);     // the theme's style sheet arrives after the attribute
    const watch = new MutationObserver(later);
    watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name"] });
    read(model);
    return () => watch.disconnect();
  },
  render() {},
};
