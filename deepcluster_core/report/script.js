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

// Clusters: sorted in one list, or in their groups; those of one id, class or path alone.
const tools = document.querySelector(".tools");
if (tools) {
  const cards = [...document.querySelectorAll(".card")];
  const homes = new Map(cards.map((card) => [card, card.parentElement]));
  const groups = document.querySelectorAll(".group");
  const sorted = document.getElementById("sorted");
  sorted.className = cards[0].parentElement.className;
  const orders = [
    ["In groups", null, 0], ["Largest", "size", -1], ["Smallest", "size", 1], ["Purest", "purity", -1],
    ["Most mixed", "purity", 1], ["Tightest", "spread", 1], ["Least stable", "stays", 1],
    ["Most changed", "overlap", 1], ["By id", "id", 1],
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

  // A number is an id or a class of exactly this name. Other text begins a class, or is anywhere in
  // a path; paths are known for the images of the map, in clusters that have no card as well.
  const search = document.createElement("input");
  const found = document.querySelector(".found");
  const plural = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
  const populated = new Set(tools.dataset.populated ? tools.dataset.populated.split(",") : []);
  const { run, k } = tools.dataset;
  const more = `deepcluster report ${run} --clusters ${k}`;
  let points = null, map = null;
  const imagesOf = (wanted) => {
    if (!points || !points.paths || wanted.length < 3) return [];
    const places = [];
    points.paths.forEach((path, i) => { if (path.toLowerCase().includes(wanted)) places.push(i); });
    return places;
  };
  const explain = (wanted, shown, images) => {
    if (wanted === "") return "";
    const elsewhere = new Set(images.map((i) => points.cluster[i])).size;
    const isId = /^[0-9]+$/.test(wanted), hasCard = cards.some((card) => card.dataset.id === wanted);
    const parts = [plural(shown.length, "cluster")];
    if (isId && shown.length) parts[0] = `${hasCard ? `Cluster ${wanted}, and ` : ""}${plural(shown.length - hasCard, "cluster")} in which ${wanted} is a frequent class`;
    if (isId && shown.length === 1 && hasCard) parts[0] = `Cluster ${wanted}`;
    if (images.length) parts.push(`${plural(images.length, "image")} with this path, in ${plural(elsewhere, "cluster")}`);
    if (isId && !hasCard && populated.has(wanted)) parts.push(`cluster ${wanted} is not in this page: ${more}`);
    else if (isId && !hasCard && Number(wanted) < Number(k)) parts.push(`cluster ${wanted} has no images`);
    else if (isId && !hasCard) parts.push(`there is no cluster ${wanted}: ids are 0 to ${k - 1}`);
    if (!shown.length && images.length) parts.push(`they have no card in this page: ${more}`);
    if (!shown.length && !images.length && !isId) {
      parts[0] = "Nothing is found";
      if (!points || !points.paths) parts.push("this page knows no paths");
      else if (points.ids.length < points.total) parts.push(`of ${points.total.toLocaleString("en")} images it knows the paths of ${points.ids.length.toLocaleString("en")}`);
      parts.push(`try a cluster's number${cards.some((card) => card.dataset.words) ? ", a class" : ""} or a part of a path`);
    }
    return `${parts.join("; ")}.`;
  };
  const look = () => {
    const wanted = search.value.trim().toLowerCase(), isNumber = /^[0-9]+$/.test(wanted);
    const images = isNumber ? [] : imagesOf(wanted);
    const theirs = new Set(images.map((i) => String(points.cluster[i])));
    for (const card of cards) {
      const words = card.dataset.words.split("|");
      const isClass = words.some((word) => (isNumber ? word === wanted : word.startsWith(wanted)));
      card.style.order = card.dataset.id === wanted ? -1 : "";
      card.hidden = wanted !== "" && card.dataset.id !== wanted && !isClass && !theirs.has(card.dataset.id);
    }
    found.textContent = explain(wanted, cards.filter((card) => !card.hidden), images);
    if (map) map.select(images.length ? images : null);
    arrange(chosen[1], chosen[2]);
  };
  search.type = "search";
  search.placeholder = cards.some((card) => card.dataset.words) ? "cluster, class or path" : "cluster or path";
  search.setAttribute("aria-label", `Search: ${search.placeholder}`);
  search.addEventListener("input", look);
  reportMap.then((opened) => {
    if (opened) ({ points, map } = opened);
    if (search.value) look();
  });
  tools.append(...buttons, search);
  tools.hidden = false;
  // A link to a card that the search hides shows it again.
  addEventListener("hashchange", () => {
    const card = document.getElementById(location.hash.slice(1));
    if (card && card.hidden) { search.value = ""; look(); card.scrollIntoView(); }
  });
}

// "cluster 63 of epoch 8" is shown on the map, if that has the epoch.
reportMap.then((opened) => {
  if (!opened || !opened.map) return;
  for (const link of document.querySelectorAll("a[data-epoch]")) {
    const place = opened.epochs.indexOf(Number(link.dataset.epoch));
    if (place < 0) continue;
    link.href = "#map";
    link.addEventListener("click", () => opened.map.show(place, Number(link.dataset.cluster)));
  }
});

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
  if (tile.dataset.image) caption.append(`\nThis page holds it ${tile.naturalWidth} pixels wide. The whole picture: ${tile.alt} in ${document.getElementById("clusters").dataset.source}`);
  const close = document.createElement("button");
  close.textContent = "Close";
  dialog.className = tile.closest(".pictures") ? "wide" : tile.closest(".sharp") ? "sharp" : "";
  dialog.replaceChildren(picture, caption, close);
  dialog.showModal();
});
