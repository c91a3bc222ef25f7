render({ el }) {
    el.style.display = "none";
    let watch = null;
    const quiet = (root) => root.querySelectorAll("button, input, select, textarea, [tabindex]").forEach((e) => e.setAttribute("data-lm-suppress-shortcuts", "true"));
    requestAnimationFrame(() => {
      const root = el.closest(".pl-lab");
      if (!root) return;
      quiet(root);
      watch = new MutationObserver(() => quiet(root));
      watch.observe(root, { childList: true, subtree: true });
    });
    return () => watch?.disconnect();
  }
