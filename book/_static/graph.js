// Pointing at a statement shows all that it rests on and all that rests on it.
document.addEventListener("DOMContentLoaded", () => {
  const figure = document.querySelector(".cotflow-graph");
  if (!figure) return;
  const curves = [...figure.querySelectorAll("path[data-from]")];
  const marked = [...figure.querySelectorAll("a[data-label]")];

  const reached = (label, from, to) => {
    const found = new Set([label]);
    for (const name of found) {
      for (const curve of curves) {
        if (curve.dataset[from] === name) found.add(curve.dataset[to]);
      }
    }
    return found;
  };

  const show = (label) => {
    figure.classList.toggle("cotflow-choosing", Boolean(label));
    const below = label ? reached(label, "from", "to") : new Set();
    const above = label ? reached(label, "to", "from") : new Set();
    for (const node of marked) {
      const name = node.dataset.label;
      node.classList.toggle("cotflow-chosen", below.has(name) || above.has(name));
    }
    for (const curve of curves) {
      const { from, to } = curve.dataset;
      const inside = (set) => set.has(from) && set.has(to);
      curve.classList.toggle("cotflow-chosen", inside(below) || inside(above));
    }
  };

  for (const node of marked) {
    node.addEventListener("mouseenter", () => show(node.dataset.label));
    node.addEventListener("mouseleave", () => show(""));
    node.addEventListener("focus", () => show(node.dataset.label));
    node.addEventListener("blur", () => show(""));
  }
});
