// A list of several pages: those near the view are loaded while one scrolls, those far away dropped.
// Each page is a section; a dropped one keeps its height, so the scroll bar shows the whole list.

const LOADED = "150% 0px"; // pages within this distance from the view, in heights of the view
const KEPT = "400% 0px"; // pages beyond this distance are dropped
const SETTLED_MS = 150; // without scrolling, until the address names the page in view

const first = document.querySelector(".part");
const header = document.querySelector("header.top");
const status = document.querySelector("#shown");
const [pages, total, perPage] = ["pages", "total", "perPage"].map((name) => Number(first?.dataset[name] ?? 1));
const parts = first ? [first] : [];
const near = new Set();
const kept = new Set();
const loading = new Map();
let changed = () => {};
let working = false;
let place = null;

const pageOf = (part) => Number(part.dataset.page);
const isLoaded = (part) => part.childElementCount > 0;
const written = (number) => number.toLocaleString("en");
const firstOf = (page) => (page - 1) * perPage + 1;
const lastOf = (page) => Math.min(page * perPage, total);
const topOf = (element) => element.getBoundingClientRect().top;

function address(page) {
  const url = new URL(location.href);
  if (page === 1) url.searchParams.delete("page"); else url.searchParams.set("page", page);
  url.hash = "";
  return url;
}

// Heights of pages that are not loaded, after one that is.
function heightOf(page) {
  const sample = parts.find(isLoaded);
  const grid = sample.querySelector(".grid, .cards");
  const style = getComputedStyle(grid);
  const [columns, gap] = [style.gridTemplateColumns.split(" ").length, parseFloat(style.rowGap)];
  const row = (grid.offsetHeight + gap) / Math.ceil(grid.childElementCount / columns);
  const rows = Math.ceil((lastOf(page) - firstOf(page) + 1) / columns);
  return sample.offsetHeight - grid.offsetHeight + rows * row - gap;
}
function reserve() {
  const [whole, last] = [heightOf(1), heightOf(pages)];
  for (const part of parts) {
    if (!isLoaded(part)) part.style.blockSize = `${pageOf(part) === pages ? last : whole}px`;
  }
}

// The place: a page, an item of it, and how far below the top of the view it lies.
function here() {
  const top = header.offsetHeight + 1; // places may be fractions of a pixel
  const isInView = (element) => element.getBoundingClientRect().bottom > top;
  const part = parts.find(isInView) ?? parts.at(-1);
  const items = [...part.querySelectorAll(".tile, .card")];
  const item = Math.max(items.findIndex(isInView), 0);
  return { page: pageOf(part), item, top: topOf(items[item] ?? part) };
}
function goTo({ page, item, top }) {
  const part = parts[page - 1];
  scrollBy(0, topOf(part.querySelectorAll(".tile, .card")[item] ?? part) - top);
}
function arrive() {
  place = here();
  history.replaceState({ ...history.state, place }, "", address(place.page));
  for (const pager of document.querySelectorAll("nav.pager")) {
    const { page } = place;
    pager.querySelector("span").textContent =
      `${written(firstOf(page))} to ${written(lastOf(page))} of ${written(total)}`;
    if (!pager.contains(document.activeElement)) pager.querySelector("[name=page]").value = page;
    for (const [rel, to] of [["prev", page - 1], ["next", page + 1]]) {
      const link = pager.querySelector(`a[rel=${rel}]`);
      link.href = address(to);
      link.hidden = to < 1 || to > pages;
    }
  }
  announce();
}

function say(text) {
  if (status.textContent !== text) status.textContent = text;
}
function announce() {
  let [from, to] = [place.page, place.page];
  if (!isLoaded(parts[from - 1])) return; // scrolled on meanwhile
  while (from > 1 && isLoaded(parts[from - 2])) from -= 1;
  while (to < pages && isLoaded(parts[to])) to += 1;
  say(`${written(firstOf(from))} to ${written(lastOf(to))} of ${written(total)} are shown`);
}

async function fragment(page) {
  const url = address(page);
  url.searchParams.set("fragment", "1");
  const failed = "The list cannot be loaded further. Does deepcluster look still run?";
  const answer = await fetch(url).catch(() => { throw new Error(failed); });
  if (!answer.ok) throw new Error("The list has changed: reload the page.");
  const holder = document.createElement("template");
  holder.innerHTML = await answer.text();
  return holder.content.querySelector(".part");
}
async function load(part) {
  const found = await fragment(pageOf(part));
  part.replaceChildren(...found.childNodes);
  part.ariaLabel = found.ariaLabel;
  part.ariaHidden = null;
  part.style.blockSize = "";
  changed(part);
}
function loadOnce(part) {
  if (!loading.has(part)) loading.set(part, load(part).finally(() => loading.delete(part)));
  return loading.get(part);
}
function dropFar() {
  for (const part of parts) {
    if (!isLoaded(part) || kept.has(part) || part.contains(document.activeElement)) continue;
    part.style.blockSize = `${part.getBoundingClientRect().height}px`;
    part.ariaHidden = "true"; // a screen reader does not meet empty lists
    part.replaceChildren();
    changed(part);
  }
}

// One page after the other, the nearest first: what one scrolls past quickly is never loaded.
async function work() {
  if (working) return;
  working = true;
  try {
    const distance = (part) => {
      const { top, bottom } = part.getBoundingClientRect();
      return Math.max(top - innerHeight, -bottom, 0);
    };
    for (;;) {
      const waiting = [...near].filter((part) => !isLoaded(part));
      if (!waiting.length) break;
      await loadOnce(waiting.reduce((a, b) => (distance(b) < distance(a) ? b : a)));
      dropFar(); // the view may have gone elsewhere meanwhile
    }
    announce();
  } catch (error) {
    say(error.message);
  }
  working = false;
}

// Load the page before (-1) or after (1) that of an item; return whether there was one to load.
export async function loadBeside(item, sign) {
  const beside = parts[parts.indexOf(item.closest(".part")) + sign];
  if (!item.closest(".part") || !beside || isLoaded(beside)) return false;
  await loadOnce(beside).catch((error) => say(error.message));
  return isLoaded(beside);
}

// After the size of the images has changed.
export function layOut() {
  if (!place) return;
  reserve();
  goTo(place);
}

function begin() {
  const around = [...Array(pages)].map((_, number) => {
    if (number + 1 === pageOf(first)) return first;
    const part = first.cloneNode(false);
    part.dataset.page = number + 1;
    part.ariaLabel = `${written(firstOf(number + 1))} to ${written(lastOf(number + 1))}`;
    part.ariaHidden = "true";
    return part;
  });
  const at = around.indexOf(first);
  parts.splice(0, 1, ...around);
  reserve();
  first.before(...around.slice(0, at));
  first.after(...around.slice(at + 1));
  // The browser cannot know the place, because the pages before are not loaded yet.
  history.scrollRestoration = "manual";
  const before = history.state?.place;
  if (before?.page === pageOf(first)) goTo(before);
  else if (at > 0) goTo({ page: at + 1, item: -1, top: header.offsetHeight });
  place = here();
}

function observe() {
  const collect = (within, rootMargin, then) => {
    const observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) within.add(target); else within.delete(target);
      }
      then();
    }, { rootMargin });
    for (const part of parts) observer.observe(part);
  };
  collect(kept, KEPT, dropFar);
  collect(near, LOADED, work);
  let timer = 0;
  addEventListener("scroll", () => {
    clearTimeout(timer);
    timer = setTimeout(arrive, SETTLED_MS);
  }, { passive: true });
  // The page may be left before that.
  document.addEventListener("click", arrive, { capture: true });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (width !== innerWidth) layOut();
    width = innerWidth;
  });
}

// `whenChanged` is called with each page that was loaded or dropped.
export function startList(whenChanged) {
  changed = whenChanged;
  if (pages < 2) return;
  begin();
  observe();
}
