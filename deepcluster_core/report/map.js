"use strict";

// A map of images: a point for each, on one canvas. It knows nothing of where its data come from,
// so that a page in one file and a page of a server can both use it.
//
//   const map = imageMap(root, data);
//
// `root` holds these elements, found by class; see templates/map.html.j2:
//   canvas, .map-tip (under the pointer), .map-colour (select), .map-epoch (input range),
//   .map-when, .map-said (live region), .map-legend, buttons [data-do="in|out|reset|clear"]
//
// `data` is an object:
//   ids          array of image_ids, one a point
//   epochs       array of { epoch, x, y, cluster, colour }, in order:
//                x, y      Float32Array, 0 to 1 (y downwards); null if the epoch has no places:
//                          then those of the next epoch that has some are used
//                cluster   array of cluster ids, one a point
//                colour    array: number of the colour of each cluster id
//   colourings   array of { name, kind, values, names, common, low, high }:
//                kind "cluster"  by the epoch's clusters; needs nothing else
//                kind "class"    values: class of each point, or NONE; names; common: those with
//                                colours of their own (the CSS variables --c0 to --c9)
//                kind "ramp"     values: 0 to 1 for each point; low, high: texts of the ends
//   describe(point, place)       text for the tip; `place` is that of the epoch in `epochs`
//   picture(point)               { image, x, y, side } for drawImage, or null
//   open(cluster, place, points) called when a cluster is chosen
//
// It returns { show(place, cluster), select(points), draw(), place }.
// Points are written into an ImageData buffer: 50,000 take a few milliseconds without a GPU.
const NONE = 65535;

function imageMap(root, data) {
  const find = (name) => root.querySelector(name);
  const canvas = find("canvas"), tip = find(".map-tip"), said = find(".map-said");
  const colourBox = find(".map-colour"), slider = find(".map-epoch"), when = find(".map-when");
  const legend = find(".map-legend"), clear = find("[data-do=clear]");
  const context = canvas.getContext("2d");
  const count = data.ids.length;
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  // The part of the square that has points at any epoch fills the canvas.
  const edges = { left: 1, right: 0, top: 1, bottom: 0 };
  for (const one of data.epochs) {
    if (!one.x) continue;
    for (let i = 0; i < count; i += 1) {
      edges.left = Math.min(edges.left, one.x[i]); edges.right = Math.max(edges.right, one.x[i]);
      edges.top = Math.min(edges.top, one.y[i]); edges.bottom = Math.max(edges.bottom, one.y[i]);
    }
  }
  const middle = { x: (edges.left + edges.right) / 2, y: (edges.top + edges.bottom) / 2 };
  const view = { ...middle, scale: 1 };
  const x = new Float32Array(count), y = new Float32Array(count), colours = new Uint32Array(count);
  let place = data.epochs.length - 1, chosen = null, pointed = -1, buffer = null, pixels = null;
  let waiting = false, moving = 0, last = null;

  // Points are drawn in a scattered order, so that no class always lies on top.
  const order = new Uint32Array(count);
  let step = Math.max(1, Math.floor(count * 0.618));
  const divisor = (a, b) => (b ? divisor(b, a % b) : a);
  while (divisor(step, count) !== 1) step += 1;
  for (let i = 0; i < count; i += 1) order[i] = (i * step) % count;

  // Colours, as 32-bit pixels.
  const pixel = (r, g, b) => (255 << 24 | b << 16 | g << 8 | r) >>> 0;
  const parsed = (text) => {
    const value = parseInt(text.trim().slice(1), 16);
    return text.trim().length === 4
      ? pixel((value >> 8 & 15) * 17, (value >> 4 & 15) * 17, (value & 15) * 17)
      : pixel(value >> 16 & 255, value >> 8 & 255, value & 255);
  };
  const variable = (name) => getComputedStyle(root).getPropertyValue(name) || "#888888";
  const hue = (number) => {
    const h = (number * 137.508) % 360, light = (dark.matches ? 0.66 : 0.46) + 0.07 * (number % 3 - 1);
    const part = (n) => {
      const k = (n + h / 30) % 12, a = 0.62 * Math.min(light, 1 - light);
      return Math.round(255 * (light - a * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
    };
    return pixel(part(0), part(8), part(4));
  };
  const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [236, 200, 20]];
  const ramp = (value) => {
    const at = Math.min(Math.max(value, 0), 1) * (RAMP.length - 1), low = Math.min(Math.floor(at), RAMP.length - 2);
    const lift = dark.matches ? 45 : 0;
    return pixel(...RAMP[low].map((from, i) => Math.min(255, lift + Math.round(from + (RAMP[low + 1][i] - from) * (at - low)))));
  };
  const css = (value) => `rgb(${value & 255} ${value >> 8 & 255} ${value >> 16 & 255})`;

  const colouring = () => data.colourings[Number(colourBox.value)];
  const epoch = () => data.epochs[place];
  const placed = (at) => data.epochs.slice(at).find((one) => one.x) || data.epochs.findLast((one) => one.x);
  const rest = () => parsed(variable("--muted"));

  function recolour() {
    const { kind, values, common } = colouring();
    if (kind === "cluster") {
      const known = Array.from(epoch().colour, hue);
      for (let i = 0; i < count; i += 1) colours[i] = known[epoch().cluster[i]];
    } else if (kind === "class") {
      const own = new Map(common.map((one, i) => [one, parsed(variable(`--c${i}`))])), other = rest();
      for (let i = 0; i < count; i += 1) colours[i] = own.get(values[i]) ?? other;
    } else {
      const known = Array.from({ length: 256 }, (_, i) => ramp(i / 255));
      for (let i = 0; i < count; i += 1) colours[i] = known[Math.round(values[i] * 255)];
    }
    describeColours();
    later();
  }

  function describeColours() {
    const { kind, names, common, low, high, values } = colouring();
    const key = (text, colour) => {
      const item = document.createElement("span"), dot = document.createElement("i");
      dot.style.background = colour;
      item.append(dot, text);
      return item;
    };
    const items = [];
    if (kind === "class") {
      common.forEach((one, i) => items.push(key(names[one], css(parsed(variable(`--c${i}`))))));
      const own = new Set(common);
      if (values.some((one) => !own.has(one))) items.push(key("others", css(rest())));
    } else if (kind === "ramp") {
      const bar = document.createElement("i");
      bar.className = "bar";
      bar.style.background = `linear-gradient(90deg, ${[0, 0.25, 0.5, 0.75, 1].map((v) => css(ramp(v)))})`;
      items.push(low, bar, high);
    } else {
      items.push("A colour for each cluster; an image that stays with its cluster keeps its colour in all epochs.");
    }
    legend.replaceChildren(...items);
  }

  // Places in pixels of the canvas.
  const fit = () => Math.min(canvas.width / Math.max(0.05, edges.right - edges.left), canvas.height / Math.max(0.05, edges.bottom - edges.top));
  const size = () => fit() * 0.94 * view.scale;
  const left = () => canvas.width / 2 - view.x * size();
  const top = () => canvas.height / 2 - view.y * size();

  function draw() {
    const { width, height } = canvas;
    if (!pixels || buffer.width !== width || buffer.height !== height) {
      buffer = context.createImageData(width, height);
      pixels = new Uint32Array(buffer.data.buffer);
    }
    pixels.fill(0);
    const ratio = width / (canvas.clientWidth || width);
    const side = Math.max(1, Math.round(ratio * Math.min(9, (count > 20000 ? 1.6 : count > 4000 ? 2.4 : 3.6) * Math.sqrt(view.scale))));
    const scale = size(), dx = left() - side / 2, dy = top() - side / 2;
    // One loop without calls: this is what decides how smoothly a large map moves.
    const paint = (points, side_, keep) => {
      for (let n = 0; n < points.length; n += 1) {
        const i = points[n], px = (dx + x[i] * scale + 0.5) | 0, py = (dy + y[i] * scale + 0.5) | 0;
        if (px < 0 || py < 0 || px + side_ > width || py + side_ > height) continue;
        const colour = keep ? colours[i] : (colours[i] & 0xffffff | 0x24 << 24) >>> 0;
        for (let at = py * width + px, end = at + side_ * width; at < end; at += width) {
          for (let to = at; to < at + side_; to += 1) pixels[to] = colour;
        }
      }
    };
    paint(order, side, !chosen);
    if (chosen) paint([...chosen], side + 1, true);
    context.putImageData(buffer, 0, 0);
    if (pointed >= 0) {
      context.strokeStyle = variable("--ink");
      context.lineWidth = 2 * ratio;
      context.beginPath();
      context.arc(left() + x[pointed] * scale, top() + y[pointed] * scale, side / 2 + 4 * ratio, 0, 7);
      context.stroke();
    }
  }
  function later() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }

  function go(to, quickly) {
    place = Math.min(Math.max(to, 0), data.epochs.length - 1);
    const target = placed(place);
    const number = epoch().epoch;
    let text = `epoch ${number}`;
    if (number === 0) text += ", the network as initialised";
    if (target !== epoch()) text += `; places of epoch ${target.epoch}`;
    when.textContent = text;
    slider.value = place;
    slider.setAttribute("aria-valuetext", text);
    recolour();
    if (quickly || still.matches || last === target) {
      x.set(target.x); y.set(target.y);
    } else {
      const fromX = x.slice(), fromY = y.slice(), begin = performance.now(), own = moving += 1;
      const frame = (now) => {
        if (own !== moving) return;
        const t = Math.min(1, Math.max(0, (now - begin) / 400)), e = t * t * (3 - 2 * t);
        for (let i = 0; i < count; i += 1) {
          x[i] = fromX[i] + (target.x[i] - fromX[i]) * e;
          y[i] = fromY[i] + (target.y[i] - fromY[i]) * e;
        }
        draw();
        if (t < 1) requestAnimationFrame(frame);
      };
      requestAnimationFrame(frame);
    }
    last = target;
    later();
  }

  function nearest(px, py, within) {
    const scale = size(), dx = left() - px, dy = top() - py;
    let best = -1, least = within * within;
    for (let i = 0; i < count; i += 1) {
      if (chosen && !chosen.has(i)) continue;
      const ax = dx + x[i] * scale, ay = dy + y[i] * scale, away = ax * ax + ay * ay;
      if (away < least) { least = away; best = i; }
    }
    return best;
  }

  function point(i) {
    pointed = i;
    tip.hidden = i < 0;
    later();
    if (i < 0) return;
    const found = data.picture(i), text = document.createElement("span");
    text.textContent = data.describe(i, place);
    const parts = [text];
    if (found) {
      const shown = document.createElement("canvas");
      shown.width = shown.height = found.side;
      shown.getContext("2d").drawImage(found.image, found.x, found.y, found.side, found.side, 0, 0, found.side, found.side);
      parts.unshift(shown);
    }
    tip.replaceChildren(...parts);
    const ratio = canvas.width / canvas.clientWidth, box = canvas.parentElement.clientWidth;
    const at = (left() + x[i] * size()) / ratio, down = (top() + y[i] * size()) / ratio;
    tip.style.left = `${Math.max(4, Math.min(at + 14, box - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(4, down + 18 + tip.offsetHeight > canvas.clientHeight ? down - tip.offsetHeight - 14 : down + 18)}px`;
  }

  function select(points) {
    chosen = points && points.length ? new Set(points) : null;
    clear.hidden = !chosen;
    later();
  }
  const members = (cluster) => {
    const found = [];
    for (let i = 0; i < count; i += 1) if (epoch().cluster[i] === cluster) found.push(i);
    return found;
  };
  function choose(cluster) {
    const found = members(cluster);
    select(found);
    said.textContent = `Cluster ${cluster} of epoch ${epoch().epoch}: ${found.length.toLocaleString("en")} points of this map.`;
    return found;
  }

  const bounded = (value) => Math.min(1, Math.max(0, value));
  function zoom(factor, px = canvas.width / 2, py = canvas.height / 2) {
    const atX = (px - left()) / size(), atY = (py - top()) / size();
    view.scale = Math.min(60, Math.max(1, view.scale * factor));
    view.x = bounded(atX - (px - canvas.width / 2) / size());
    view.y = bounded(atY - (py - canvas.height / 2) / size());
    if (view.scale === 1) Object.assign(view, middle);
    canvas.style.touchAction = view.scale > 1 ? "none" : "pan-y";
    later();
  }
  function pan(dx, dy) {
    if (view.scale === 1) return;
    view.x = bounded(view.x - dx / size());
    view.y = bounded(view.y - dy / size());
    later();
  }
  function open(i) {
    if (i < 0) return;
    const cluster = epoch().cluster[i];
    data.open(cluster, place, choose(cluster));
  }

  // Pointers: one points or moves the map, two zoom it.
  const fingers = new Map();
  let travelled = 0;
  const spot = (event) => {
    const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
    return { x: (event.clientX - box.left) * ratio, y: (event.clientY - box.top) * ratio };
  };
  const reach = (event) => (event.pointerType === "touch" ? 28 : 14) * canvas.width / canvas.clientWidth;
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, spot(event));
    travelled = fingers.size > 1 ? Infinity : 0;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = spot(event), before = fingers.get(event.pointerId);
    if (!before) { point(nearest(now.x, now.y, reach(event))); return; }
    const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    if (others.length) {
      const [other] = others, apart = (at) => Math.hypot(at.x - other.x, at.y - other.y);
      zoom(apart(now) / Math.max(1, apart(before)), (now.x + other.x) / 2, (now.y + other.y) / 2);
    } else {
      travelled += Math.hypot(now.x - before.x, now.y - before.y);
      if (travelled > 6) { pan(now.x - before.x, now.y - before.y); point(-1); }
    }
    fingers.set(event.pointerId, now);
  });
  const lift = (event) => {
    const at = spot(event), wasDown = fingers.delete(event.pointerId);
    if (event.type === "pointerup" && wasDown && travelled <= 6) {
      const found = nearest(at.x, at.y, reach(event));
      point(found);
      if (found < 0) { select(null); said.textContent = ""; } else open(found);
    }
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", () => { if (!fingers.size) point(-1); });
  // A page scrolls past the map; the wheel zooms once the map has the focus, or with Ctrl.
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== canvas) return;
    event.preventDefault();
    const at = spot(event);
    zoom(Math.exp(-event.deltaY * 0.002), at.x, at.y);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const far = canvas.width / 10;
    const keys = {
      ArrowLeft: () => pan(far, 0), ArrowRight: () => pan(-far, 0), ArrowUp: () => pan(0, far), ArrowDown: () => pan(0, -far),
      "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: () => zoom(0),
      Escape: () => { select(null); point(-1); said.textContent = ""; },
      Enter: () => { const i = nearest(canvas.width / 2, canvas.height / 2, Infinity); point(i); open(i); },
      ",": () => go(place - 1), ".": () => go(place + 1),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
    if (event.key.startsWith("Arrow")) {
      const i = nearest(canvas.width / 2, canvas.height / 2, Infinity);
      point(i);
      if (i >= 0) said.textContent = data.describe(i, place);
    }
  });
  const buttons = {
    in: () => zoom(1.6), out: () => zoom(1 / 1.6), reset: () => zoom(0),
    clear: () => { select(null); said.textContent = ""; },
  };
  for (const button of root.querySelectorAll("[data-do]")) button.addEventListener("click", buttons[button.dataset.do]);

  data.colourings.forEach((one, i) => colourBox.add(new Option(one.name, i)));
  colourBox.addEventListener("change", recolour);
  slider.max = data.epochs.length - 1;
  slider.closest("label").hidden = data.epochs.length < 2;
  slider.addEventListener("input", () => {
    select(null);
    said.textContent = "";
    go(Number(slider.value));
  });
  dark.addEventListener("change", recolour);
  new ResizeObserver(() => {
    const ratio = Math.min(2, devicePixelRatio || 1);
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    draw();
  }).observe(canvas);
  go(place, true);
  return {
    draw,
    select,
    get place() { return place; },
    show(to, cluster) { go(to); return choose(cluster); },
    panBy: pan,
    zoomBy: zoom,
  };
}
