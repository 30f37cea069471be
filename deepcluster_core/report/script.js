"use strict";

// Charts: the legend tells the values at the pointer, the finger or the arrow keys.
for (const svg of document.querySelectorAll(".chart svg")) {
  const at = svg.dataset.at.split(",").map(Number);
  const names = svg.dataset.names.split("|");
  const legend = svg.parentElement.querySelector(".legend");
  const [when, ...keys] = legend.children;
  const texts = keys.map((key) => key.dataset.texts.split("|"));
  const said = [when, ...keys.map((key) => key.querySelector("b"))];
  const latest = said.map((element) => element.textContent);
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
  cursor.setAttribute("class", "cursor");
  svg.append(cursor);
  let place = names.indexOf(latest[0]);

  const show = (number) => {
    place = Math.min(Math.max(number, 0), at.length - 1);
    cursor.setAttribute("d", `M${at[place]} ${svg.dataset.top}V${svg.dataset.floor}`);
    [names[place], ...texts.map((text) => text[place])].forEach((text, i) => { said[i].textContent = text; });
  };
  const point = (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const away = at.map((value) => Math.abs(value - x));
    show(away.indexOf(Math.min(...away)));
  };
  const leave = () => {
    cursor.removeAttribute("d");
    latest.forEach((text, i) => { said[i].textContent = text; });
    place = names.indexOf(latest[0]);
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { show(place + step); event.preventDefault(); }
  });
}

// Clusters: sorted in one list, or in their groups; those of one id or class alone.
const tools = document.querySelector(".tools");
if (tools) {
  const cards = [...document.querySelectorAll(".card")];
  const homes = new Map(cards.map((card) => [card, card.parentElement]));
  const groups = document.querySelectorAll(".group");
  const sorted = document.getElementById("sorted");
  sorted.className = cards[0].parentElement.className;
  const orders = [
    ["In groups", null, 0], ["Largest", "size", -1], ["Smallest", "size", 1], ["Purest", "purity", -1],
    ["Most mixed", "purity", 1], ["Most changed", "overlap", 1], ["By id", "id", 1],
  ];
  const usable = orders.filter(([, key]) => key === null || cards.some((card) => key in card.dataset));
  const arrange = (key, sign) => {
    const value = (card) => (key in card.dataset ? sign * Number(card.dataset[key]) : Infinity);
    const order = key === null ? cards : [...cards].sort((a, b) => value(a) - value(b));
    for (const card of order) (key === null ? homes.get(card) : sorted).append(card);
    sorted.hidden = key === null;
    for (const group of groups) group.hidden = key !== null || !group.querySelector(".card:not([hidden])");
  };
  let chosen = usable[0];
  const buttons = usable.map((order) => {
    const button = document.createElement("button");
    button.textContent = order[0];
    button.addEventListener("click", () => {
      chosen = order;
      for (const other of buttons) other.setAttribute("aria-pressed", other === button);
      arrange(order[1], order[2]);
    });
    button.setAttribute("aria-pressed", order === chosen);
    return button;
  });
  const search = document.createElement("input");
  search.type = "search";
  search.placeholder = cards.some((card) => card.dataset.words) ? "cluster or class" : "cluster";
  search.setAttribute("aria-label", `Show one ${search.placeholder}`);
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    for (const card of cards) {
      const words = card.dataset.words.split("|");
      card.hidden = wanted !== "" && card.dataset.id !== wanted && !words.some((word) => word.startsWith(wanted));
    }
    arrange(chosen[1], chosen[2]);
  });
  tools.append(...buttons, search);
  tools.hidden = false;
}

// An image larger, with the text of its title, since a finger cannot hover.
const dialog = document.createElement("dialog");
document.body.append(dialog);
dialog.addEventListener("click", () => dialog.close());
document.addEventListener("click", (event) => {
  const tile = event.target;
  if (!(tile instanceof HTMLImageElement) || !tile.closest(".tiles, .pictures")) return;
  const picture = new Image();
  picture.src = tile.src;
  picture.alt = tile.alt;
  const caption = document.createElement("p");
  caption.textContent = tile.title || tile.alt;
  const close = document.createElement("button");
  close.textContent = "Close";
  dialog.className = tile.closest(".pictures") ? "wide" : tile.closest(".sharp") ? "sharp" : "";
  dialog.replaceChildren(picture, caption, close);
  dialog.showModal();
});
