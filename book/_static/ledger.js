// The form above the ledger's table: what does not fit is hidden, what is left is counted. The
// choice stands in the address, so that it can be linked to and the way back works.
document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector("form.cotflow-steer");
  const table = document.querySelector("table.cotflow-all");
  if (!form || !table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  // What stands in the source of a formula counts as well as its words.
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const found = form.querySelector(".cotflow-found");
  const fields = [...form.elements].filter((field) => field.name);
  form.hidden = false;

  const fits = (row, asked) =>
    asked.search.toLowerCase().split(/\s+/).every((word) => texts.get(row).includes(word)) &&
    ["chapter", "kind", "verdict"].every((key) => !asked[key] || row.dataset[key] === asked[key]) &&
    (!asked.paper || row.dataset.paper.split(" ").includes(asked.paper));

  const orders = { near: -1, far: 1 };
  const sorted = (order) => {
    const sign = orders[order];
    if (!sign) return rows;
    const near = (row) => (row.dataset.near === "" ? null : Number(row.dataset.near));
    return [...rows].sort((a, b) => {
      const [x, y] = [near(a), near(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (x - y);
    });
  };

  let order = "book";
  const apply = (keep = true) => {
    const asked = Object.fromEntries(fields.map((field) => [field.name, field.value]));
    if (asked.sort !== order) body.append(...sorted((order = asked.sort)));
    let shown = 0;
    for (const row of rows) {
      row.hidden = !fits(row, asked);
      shown += !row.hidden;
    }
    for (const point of document.querySelectorAll(".cotflow-glance a")) {
      point.classList.toggle("cotflow-off", document.getElementById(point.getAttribute("href").slice(1)).hidden);
    }
    found.textContent = `${shown} of ${rows.length} claims`;
    if (!keep) return;
    const query = new URLSearchParams(fields.filter((field) => field.value && field.value !== "book").map(
      (field) => [field.name, field.value]));
    history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}${location.hash}`);
  };

  const reveal = () => {
    const row = location.hash && document.getElementById(location.hash.slice(1));
    if (!row || row.closest("table") !== table) return;
    if (row.hidden) {
      form.reset();
      apply();
    }
    row.querySelector("details").open = true;
    row.scrollIntoView({ block: "center" });
  };

  const asked = new URLSearchParams(location.search);
  for (const field of fields) {
    if (asked.has(field.name)) field.value = asked.get(field.name);
    if (field.tagName === "SELECT" && field.selectedIndex < 0) field.selectedIndex = 0;
  }
  form.addEventListener("input", () => apply());
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  window.addEventListener("hashchange", reveal);
  apply(false);
  reveal();
});
