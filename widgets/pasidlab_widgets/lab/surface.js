render({ model, el }) {
    el.style.display = "none";
    let watch = null;
    const rest = (root) => {
      const resting = model.get("resting");
      for (const button of root.querySelectorAll('button[class*="pl-do-"]')) {
        const name = [...button.classList].find((c) => c.startsWith("pl-do-")).slice(6);
        button.dataset.hint ??= button.title;
        button.disabled = name in resting;
        button.title = resting[name] ?? button.dataset.hint;
      }
    };
    const tend = (root) => {
      root.querySelectorAll("button, input, select, textarea, [tabindex]").forEach((e) => e.setAttribute("data-lm-suppress-shortcuts", "true"));
      rest(root);
    };
    const changed = () => { const root = el.closest(".pl-lab"); if (root) rest(root); };
    model.on("change:resting", changed);
    requestAnimationFrame(() => {
      const root = el.closest(".pl-lab");
      if (!root) return;
      tend(root);
      watch = new MutationObserver((changes) => { if (changes.some((c) => c.addedNodes.length)) tend(root); });
      watch.observe(root, { childList: true, subtree: true });
    });
    return () => { watch?.disconnect(); model.off("change:resting", changed); };
  }
