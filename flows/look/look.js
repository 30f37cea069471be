import { layOut, loadBeside, startList } from "./list.js";

const { images: ofImages, labels: ofLabels, epoch, up } = document.body.dataset;
const find = (selector, place = document) => place.querySelector(selector);
const all = (selector, place = document) => [...place.querySelectorAll(selector)];

// What is ticked stays in the browser: images of the run, and clusters of each table of labels.
const STORE = `ticked ${ofImages}`;
const read = () => {
  try {
    const found = JSON.parse(localStorage.getItem(STORE)) ?? {};
    return { images: new Set(found.images), clusters: found.clusters ?? {} };
  } catch {
    return { images: new Set(), clusters: {} };
  }
};
const clustersOf = (ticked) => new Set(ticked.clusters[ofLabels]);
const write = (ticked) => {
  localStorage.setItem(STORE, JSON.stringify({ images: [...ticked.images], clusters: ticked.clusters }));
  show();
};
const counted = (number, name) => `${number.toLocaleString("en")} ${name}${number === 1 ? "" : "s"}`;

function show() {
  const ticked = read();
  const clusters = clustersOf(ticked);
  for (const box of all(".tick")) {
    const { image, cluster } = box.dataset;
    box.checked = image === undefined ? clusters.has(Number(cluster)) : ticked.images.has(Number(image));
  }
  const parts = [];
  if (ticked.images.size) parts.push(counted(ticked.images.size, "image"));
  if (clusters.size) parts.push(counted(clusters.size, "whole cluster"));
  const text = parts.join(" and ");
  find("#ticked").textContent = text && `${text} ticked`;
  find("#take-out-what").textContent = `${text}, as of epoch ${epoch}.`;
  find(".bar").hidden = !text;
}

function tick(boxes, on) {
  const ticked = read();
  const clusters = clustersOf(ticked);
  for (const { dataset } of boxes) {
    const [set, number] = dataset.image === undefined ? [clusters, dataset.cluster] : [ticked.images, dataset.image];
    if (on) set.add(Number(number)); else set.delete(Number(number));
  }
  ticked.clusters[ofLabels] = [...clusters];
  write(ticked);
}

document.addEventListener("change", ({ target }) => {
  if (target.matches(".tick")) tick([target], target.checked);
  if (target.matches("[data-submits]")) target.form.submit();
});
addEventListener("storage", show); // another tab
addEventListener("pageshow", show); // back from another page
document.addEventListener("click", ({ target }) => {
  if (target.matches(".tick-part")) tick(all(".tick", target.closest(".part")), true);
});
find("#untick").addEventListener("click", () => {
  const ticked = read();
  delete ticked.clusters[ofLabels];
  write({ images: new Set(), clusters: ticked.clusters });
  find("#content").focus();
});

// Requests that change something or send data; errors are texts for people.
async function post(address, data) {
  let answer;
  try {
    answer = await fetch(address, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data),
    });
  } catch {
    throw new Error("The server does not answer. Does deepcluster look still run?");
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  try {
    throw new Error(JSON.parse(text).error);
  } catch (error) {
    throw error instanceof SyntaxError ? new Error(text) : error;
  }
}
async function answered(form, work) {
  const answer = find(".answer", form);
  answer.classList.remove("bad");
  answer.textContent = "…";
  try {
    answer.textContent = await work();
  } catch (error) {
    answer.classList.add("bad");
    answer.textContent = error.message;
  }
}

// The name of a cluster.
const naming = find("#naming");
naming?.addEventListener("submit", (event) => {
  event.preventDefault();
  answered(naming, async () => {
    const address = `/epoch/${epoch}/cluster/${naming.dataset.cluster}/name`;
    const { name } = await (await post(address, { name: naming.elements.name.value })).json();
    const heading = find("#heading");
    heading.textContent = name || heading.dataset.unnamed;
    naming.elements.name.value = name;
    find("#carried")?.remove();
    return name ? "Saved" : "Has no name now";
  });
});
if (location.hash === "#name") find("#name")?.select();

// Taking out.
const dialog = find("#take-out");
const form = find("form", dialog);
const offerName = () => { find(".folder", form).hidden = form.elements.form.value !== "folder"; };
form.addEventListener("change", offerName);
offerName();
find("#take-out-opens").addEventListener("click", () => {
  find(".answer", form).textContent = "";
  dialog.showModal();
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  answered(form, async () => {
    const ticked = read();
    const answer = await post(`/epoch/${epoch}/take-out`, {
      form: form.elements.form.value,
      images: [...ticked.images],
      clusters: [...clustersOf(ticked)],
      folder: form.elements.folder.value,
    });
    if (form.elements.form.value === "folder") return (await answer.json()).message;
    const name = form.elements.form.value === "csv" ? "images.csv" : "paths.txt";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    return `Saved as ${name} by the browser`;
  });
});
find("#help-opens").addEventListener("click", () => find("#help").showModal());
for (const button of all(".closes")) button.addEventListener("click", () => button.closest("dialog").close());

// The size of images, remembered. A small image is shown in whole pixels.
const size = find("#size");
const resize = (value) => document.documentElement.style.setProperty("--tile", `${value}px`);
const kept = Number(localStorage.getItem("tile")) || 112;
resize(kept);
if (size) {
  size.value = kept;
  size.addEventListener("input", () => {
    resize(size.value);
    localStorage.setItem("tile", size.value);
    layOut();
  });
}
function sharpen(picture) {
  if (!picture.matches(".grid img, .strip img, .large")) return;
  picture.classList.toggle("sharp", picture.naturalWidth < picture.width);
}
for (const picture of document.images) if (picture.complete) sharpen(picture);
document.addEventListener("load", ({ target }) => sharpen(target), { capture: true });

// Keys. One item of all is reached by the tab key, the others from it by arrows.
let items = all("[data-item]");
let current = items[0];
function makeCurrent(chosen) {
  current = chosen;
  for (const item of items) item.tabIndex = item === chosen ? 0 : -1;
}
if (items.length) makeCurrent(current);
document.addEventListener("focusin", ({ target }) => { if (items.includes(target)) makeCurrent(target); });
startList(() => {
  items = all("[data-item]");
  makeCurrent(items.includes(current) ? current : items[0]);
  show();
});

// The item above or below: of the nearest row, the one that lies nearest.
function across(from, sign) {
  const box = from.getBoundingClientRect();
  const boxes = items.map((item) => [item, item.getBoundingClientRect()]);
  const beyond = boxes.filter(([, other]) => sign * (other.top - box.top) > 1);
  const row = Math.min(...beyond.map(([, other]) => sign * other.top));
  const inRow = beyond.filter(([, other]) => Math.abs(sign * other.top - row) < 2);
  inRow.sort(([, a], [, b]) => Math.abs(a.left - box.left) - Math.abs(b.left - box.left));
  return inRow[0]?.[0];
}
function next(from, key) {
  const place = items.indexOf(from);
  if (key === "ArrowRight") return items[place + 1];
  if (key === "ArrowLeft") return items[place - 1];
  return across(from, key === "ArrowDown" ? 1 : -1);
}
async function arrow(event) {
  const back = event.key === "ArrowLeft" || event.key === "ArrowUp";
  const from = document.activeElement;
  if (!items.includes(from)) {
    // On the page of an image, left and right lead to the next one of its cluster.
    const sideways = event.key === "ArrowLeft" || event.key === "ArrowRight";
    if (find(".large") && sideways) return find(`.image a[rel=${back ? "prev" : "next"}]`)?.click();
    if (!items.length || find(".large")) return undefined; // the page scrolls
    event.preventDefault();
    return items[0].focus();
  }
  event.preventDefault();
  let to = next(from, event.key);
  const staysInPart = to && to.closest(".part") === from.closest(".part");
  if (!staysInPart && await loadBeside(from, back ? -1 : 1)) to = next(from, event.key);
  to?.focus();
  return to?.closest(".tile, .card").scrollIntoView({ block: "nearest" });
}
function name() {
  const field = find("#name");
  if (field) return field.select();
  const card = items.includes(document.activeElement) ? document.activeElement : null;
  if (card?.closest(".card")) location.href = `${card.getAttribute("href")}#name`;
  return undefined;
}
const KEYS = {
  "/": () => find("#search").select(),
  "n": name,
  "Escape": () => { if (up) location.href = up; },
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || find("dialog[open]")) return;
  const { target } = event;
  if (target.matches("input:not([type=checkbox], [type=range]), select, textarea")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  if (event.key.startsWith("Arrow") && !target.matches("[type=range]")) {
    arrow(event);
  } else if (event.key === " " && items.includes(target)) {
    event.preventDefault();
    const box = find(".tick", target.closest(".tile, .card"));
    if (box) tick([box], !box.checked);
  } else if (event.key in KEYS) {
    event.preventDefault();
    KEYS[event.key]();
  }
});

show();
