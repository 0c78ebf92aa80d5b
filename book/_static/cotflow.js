// Definitions that appear on pointing at a word or reaching it with the keyboard. The text of each
// comes with its link, so that pages opened from a disk have it too.
document.addEventListener("DOMContentLoaded", () => {
  let note = null;
  let owner = null;
  let leaving = null;

  const hide = () => {
    clearTimeout(leaving);
    note?.remove();
    owner?.removeAttribute("aria-describedby");
    note = owner = null;
  };

  // A moment's grace, so that the pointer can move onto the note and rest there.
  const leave = () => {
    clearTimeout(leaving);
    leaving = setTimeout(hide, 200);
  };

  const show = (term) => {
    clearTimeout(leaving);
    if (owner === term) return;
    hide();
    owner = term;
    note = document.createElement("div");
    note.id = "cotflow-definition";
    note.className = "cotflow-definition";
    note.setAttribute("role", "tooltip");
    note.textContent = term.dataset.definition;
    note.addEventListener("mouseenter", () => clearTimeout(leaving));
    note.addEventListener("mouseleave", leave);
    document.body.append(note);
    term.setAttribute("aria-describedby", note.id);

    const place = term.getClientRects()[0];
    const margin = 8;
    const left = Math.min(place.left, document.documentElement.clientWidth - note.offsetWidth - margin);
    const below = place.bottom + note.offsetHeight + margin < document.documentElement.clientHeight;
    const top = below ? place.bottom + 4 : place.top - note.offsetHeight - 4;
    note.style.left = `${Math.max(margin, left) + window.scrollX}px`;
    note.style.top = `${top + window.scrollY}px`;
  };

  // The first touch shows the definition, the second follows the link.
  let touched = null;
  document.addEventListener("pointerdown", (event) => {
    const term = event.target.closest?.(".cotflow-term");
    touched = term && event.pointerType !== "mouse" && owner !== term ? term : null;
    if (!term && !event.target.closest?.(".cotflow-definition")) hide();
  }, true);

  for (const term of document.querySelectorAll(".cotflow-term")) {
    term.addEventListener("click", (event) => {
      if (touched !== term) return;
      event.preventDefault();
      show(term);
    });
    term.addEventListener("mouseenter", () => show(term));
    term.addEventListener("mouseleave", leave);
    term.addEventListener("focus", () => show(term));
    term.addEventListener("blur", hide);
  }

  // The arrows that open parts of the table of contents have no name of their own.
  for (const summary of document.querySelectorAll("nav li > details > summary")) {
    const title = summary.closest("li").querySelector(":scope > a")?.textContent.trim();
    summary.setAttribute("aria-label", `Pages below ${title}`);
  }

  // On paper nothing opens: proofs are printed, folded code is not.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("article details:not(.hide, [open])")];
    for (const proof of opened) proof.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const proof of opened) proof.open = false;
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
});
