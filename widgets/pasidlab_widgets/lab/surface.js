render({ model, el }) {
    el.style.display = "none";
    let watch = null;
    const rest = (root) => {
      const resting = new Map(Object.entries(model.get("resting")).flatMap(([why, names]) => names.map((name) => [name, why])));
      const labels = model.get("labels");
      for (const button of root.querySelectorAll('button[class*="pl-do-"]')) {
        const name = [...button.classList].find((c) => c.startsWith("pl-do-")).slice(6);
        button.dataset.hint ??= button.title;
        button.dataset.label ??= button.textContent;
        const [label, loud] = labels[name] ?? [button.dataset.label, false];
        if (button.textContent !== label) button.textContent = label;
        button.classList.toggle("is-loud", loud);
        button.disabled = resting.has(name);
        button.title = resting.get(name) ?? button.dataset.hint;
      }
      for (const menu of root.querySelectorAll('[class*="pl-pick-"]')) {
        const name = [...menu.classList].find((c) => c.startsWith("pl-pick-")).slice(3), why = resting.get(name) ?? "";
        if (menu.title !== why) menu.title = why;
      }
    };
    const tend = (root) => {
      root.querySelectorAll("button, input, select, textarea, [tabindex]").forEach((e) => e.setAttribute("data-lm-suppress-shortcuts", "true"));
      rest(root);
    };
    // What asks for a second press must not take a double click for it.
    const once = (event) => { if (event.detail > 1 && event.target.closest(".pl-twice")) event.stopPropagation(); };
    const changed = () => { const root = el.closest(".pl-lab"); if (root) rest(root); };
    model.on("change:resting change:labels", changed);
    requestAnimationFrame(() => {
      const root = el.closest(".pl-lab");
      if (!root) return;
      tend(root);
      root.addEventListener("click", once, true);
      watch = new MutationObserver((changes) => { if (changes.some((c) => c.addedNodes.length)) tend(root); });
      watch.observe(root, { childList: true, subtree: true });
    });
    return () => { watch?.disconnect(); el.closest(".pl-lab")?.removeEventListener("click", once, true); model.off("change:resting change:labels", changed); };
  }
