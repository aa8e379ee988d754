"use strict";
// The table is whole without a script; with one it is sorted by its heads and filtered by words.
const rows = [...document.querySelectorAll("tbody tr")];
const body = document.querySelector("tbody");
const form = document.querySelector(".filter");
const words = form.querySelector("input");
form.hidden = false;
form.addEventListener("submit", (event) => event.preventDefault());
function update() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !wanted.every((word) => text.includes(word));
  }
  form.querySelector("output").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
}
words.addEventListener("input", update);
update();
const heads = [...document.querySelectorAll("thead th")];
heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending" || (head.dataset.first === "down" && !head.hasAttribute("aria-sort"));
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.children[column].dataset.value ?? row.children[column].textContent.trim();
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // what is not known comes last
      const number = Number(x) - Number(y);
      const compared = Number.isNaN(number) ? x.localeCompare(y) : number;
      return down ? -compared : compared;
    };
    body.append(...rows.sort(order));
  });
});
