"use strict";
// Reading the curves: with the pointer, or with the arrow keys on a curve. Everything else on the
// page works without a script.
for (const hint of document.querySelectorAll(".hint")) hint.hidden = false;
for (const chart of document.querySelectorAll(".chart")) {
  const curves = JSON.parse(chart.dataset.points);
  const plot = chart.querySelector(".plot");
  const svg = plot.querySelector("svg");
  const readout = chart.querySelector(".readout");
  const places = [...new Set(curves.flatMap((curve) => curve.at.map((point) => point[2])))].sort((a, b) => a - b);
  const layer = document.createElementNS(svg.namespaceURI, "g");
  svg.append(layer);
  let current = -1;

  const add = (name, attributes) => {
    const element = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    layer.append(element);
    return element;
  };
  const nearest = (points, x) =>
    points.reduce((best, point) => (Math.abs(point[2] - x) < Math.abs(best[2] - x) ? point : best));
  const number = (value) => String(Number(value.toPrecision(4)));

  function show(x) {
    layer.replaceChildren();
    add("line", { class: "cursor", x1: x, x2: x, y1: 4, y2: 159 });
    const texts = [];
    let unit = "";
    for (const curve of curves) {
      const point = nearest(curve.at, x);
      // A curve that has no point near here says nothing about this place.
      if (Math.abs(point[2] - x) > 12) continue;
      const dot = add("circle", { cx: point[2], cy: point[3], r: 3.2 });
      dot.style.fill = curve.color;
      texts.push(curves.length > 1 ? `${curve.name} ${number(point[1])}` : number(point[1]));
      unit ||= `${chart.dataset.unit} ${number(point[0])}: `;
    }
    readout.textContent = unit + texts.join(", ");
  }
  function hide() {
    layer.replaceChildren();
    readout.textContent = "\u00a0";
    current = -1;
  }
  function at(event) {
    const box = svg.getBoundingClientRect();
    return ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
  }

  svg.addEventListener("pointermove", (event) => {
    const x = at(event);
    current = places.reduce((best, place, i) => (Math.abs(place - x) < Math.abs(places[best] - x) ? i : best), 0);
    show(places[current]);
  });
  svg.addEventListener("pointerleave", () => document.activeElement !== plot && hide());
  plot.tabIndex = 0;
  plot.setAttribute("aria-roledescription", "line chart, arrow keys read its values");
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: places.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    current = Math.min(Math.max(moves[event.key], 0), places.length - 1);
    show(places[current]);
  });
}
// A picture at a size to look into.
const dialog = document.querySelector("dialog");
for (const button of document.querySelectorAll(".enlarge"))
  button.addEventListener("click", () => {
    const close = document.createElement("form");
    close.method = "dialog";
    close.append(document.createElement("button"));
    close.firstChild.textContent = "Close";
    const text = button.closest("li").querySelector(".picture-text");
    dialog.replaceChildren(button.querySelector("img").cloneNode(), text.cloneNode(true), close);
    dialog.showModal();
  });
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
dialog.addEventListener("close", () => dialog.replaceChildren());
// The mistakes of one class, as what they are or as what they were taken for.
for (const form of document.querySelectorAll(".filter")) {
  const [chosen, doubt] = [form.querySelector("select"), form.querySelector("input")];
  const items = [...form.nextElementSibling.children];
  const update = () => {
    for (const item of items)
      item.hidden =
        (chosen.value !== "" && !JSON.parse(item.dataset.classes).includes(chosen.value)) ||
        Boolean(doubt?.checked && !("suspected" in item.dataset));
    const count = items.filter((item) => !item.hidden).length;
    form.querySelector("output").textContent = `${count} of ${items.length} pictures`;
  };
  form.hidden = false;
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
}
// A link or a printer leads into what is folded.
function unfold() {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  const fold = target && target.closest("details");
  if (fold) fold.open = true;
}
addEventListener("hashchange", unfold);
unfold();
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
