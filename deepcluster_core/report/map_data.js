// The map of report.html: unpacks what image_map.py has packed, and gives it to imageMap (map.js).
// `reportMap` resolves to { points, map, clusterOf } once it is there; to null without data.

const unpacked = async (text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

const mapArrays = (about, bytes) => {
  // All lowest bytes of an array come first, then all second ones, and so on.
  const found = {};
  let start = 0;
  for (const { name, bytes: width, length } of about.arrays) {
    const array = new Uint32Array(length);
    for (let plane = 0; plane < width; plane += 1) {
      for (let i = 0; i < length; i += 1) array[i] += bytes[start + plane * length + i] * 2 ** (8 * plane);
    }
    start += width * length;
    found[name] = array;
  }
  for (let i = 1; i < found.ids.length; i += 1) found.ids[i] += found.ids[i - 1];
  return found;
};

const mapColourings = (about, arrays) => {
  const shares = (array, most) => Float32Array.from(array, (value) => value / Math.max(1, most));
  const [near, far] = about.distances.map((value) => value.toFixed(3));
  const found = [{ name: "cluster", kind: "cluster" }];
  if (arrays.class) found.push({ name: "true label", kind: "class", values: arrays.class, names: about.classes, common: about.common });
  found.push({ name: "distance to the centroid", kind: "ramp", values: shares(arrays.distance, 255), low: near, high: far });
  if (arrays.stayed) {
    const high = `with its cluster in all ${about.stayedEpochs} epochs before`;
    found.push({ name: "stability", kind: "ramp", values: shares(arrays.stayed, about.stayedEpochs), low: "in none", high });
  }
  if (about.epochs.length > 1) {
    const [low, high] = [`epoch ${about.epochs[0]} or never`, `epoch ${about.epochs.at(-1)}`];
    found.push({ name: "epoch of the last change", kind: "ramp", values: shares(arrays.change, about.epochs.length - 1), low, high });
  }
  return found;
};

const mapEpochs = (about, arrays) => about.epochs.map((epoch, i) => {
  const places = (name, flip) => about.placed[i]
    ? Float32Array.from(arrays[`${name}${epoch}`], (value) => (flip ? 1 - value / 4095 : value / 4095))
    : null;
  return { epoch, x: places("x", false), y: places("y", true), cluster: arrays[`cluster${epoch}`], colour: arrays[`colour${epoch}`] };
});

async function openReportMap() {
  const stored = document.getElementById("map-data");
  if (!stored) return null;
  const about = JSON.parse(stored.dataset.about);
  const arrays = mapArrays(about, await unpacked(stored.content.querySelector(".arrays").textContent));
  const packed = stored.content.querySelector(".paths").textContent;
  const paths = about.hasPaths ? new TextDecoder().decode(await unpacked(packed)).split("\n") : null;
  const points = { ids: arrays.ids, paths, total: about.total, k: about.k, cluster: arrays[`cluster${about.epochs.at(-1)}`] };
  const root = document.getElementById("image-map");
  if (!root || !about.placed.some(Boolean)) return { points, map: null };

  // Larger thumbnails of the gallery first, then those of the atlas.
  const ofCards = new Map([...document.querySelectorAll("img[data-image]")].map((image) => [Number(image.dataset.image), image]));
  const atlas = document.getElementById("map-atlas");
  if (atlas) await atlas.decode().catch(() => {});
  const numbers = new Int32Array(arrays.ids.length).fill(-1);
  let next = 0;
  if (atlas) arrays.hasPicture.forEach((has, i) => { if (has) { numbers[i] = next; next += 1; } });
  const picture = (i) => {
    const image = ofCards.get(arrays.ids[i]);
    if (image && image.complete && image.naturalWidth) return { image, x: 0, y: 0, side: image.naturalWidth };
    if (numbers[i] < 0) return null;
    const { side, columns } = about.atlas;
    return { image: atlas, x: (numbers[i] % columns) * side, y: Math.floor(numbers[i] / columns) * side, side };
  };
  const epochs = mapEpochs(about, arrays);
  const describe = (i, place) => {
    const lines = [paths ? paths[i] : `image ${arrays.ids[i]}`, `cluster ${epochs[place].cluster[i]} of epoch ${epochs[place].epoch}`];
    if (arrays.class && arrays.class[i] !== NONE) lines.push(`label ${about.classes[arrays.class[i]]}`);
    if (!picture(i)) lines.push("no picture of it in this page");
    return lines.join("\n");
  };
  const data = { ids: arrays.ids, epochs, colourings: mapColourings(about, arrays), describe, picture };
  data.open = (cluster, place, members) => {
    const near = [...members].sort((a, b) => arrays.distance[a] - arrays.distance[b]);
    openCluster({ cluster, epoch: epochs[place].epoch, isLast: place === epochs.length - 1, members: near, picture });
  };
  const map = imageMap(root, data);
  root.imageMap = map;
  root.hidden = false;
  return { points, map, epochs: about.epochs };
}
const reportMap = openReportMap().catch((error) => {
  const note = document.querySelector(".map-missing");
  if (note) { note.hidden = false; note.textContent = `The map cannot be drawn in this browser (${error.message}); one from 2023 or later can.`; }
  return null;
});

// The images of a cluster that the map has, at any epoch.
function openCluster({ cluster, epoch, isLast, members, picture }) {
  const shown = members.map(picture).filter(Boolean).slice(0, 60);
  const heading = document.createElement("h4");
  heading.textContent = `Cluster ${cluster} of epoch ${epoch}`;
  const text = document.createElement("p");
  const nearest = isLast ? ", nearest to the centroid first" : "";
  text.textContent = `${members.length.toLocaleString("en")} images of the map; ${shown.length} pictures${nearest}. `
    + `All of them: deepcluster show RUN --epoch ${epoch} --cluster ${cluster}`;
  const sheet = document.createElement("div");
  sheet.className = "sheet";
  for (const { image, x, y, side } of shown) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = side;
    tile.getContext("2d").drawImage(image, x, y, side, side, 0, 0, side, side);
    sheet.append(tile);
  }
  const parts = [heading, sheet, text];
  if (isLast && document.getElementById(`cluster-${cluster}`)) {
    const link = document.createElement("a");
    link.href = `#cluster-${cluster}`;
    link.textContent = "Its card";
    link.addEventListener("click", () => dialog.close());
    parts.push(link, " ");
  }
  const close = document.createElement("button");
  close.textContent = "Close";
  dialog.className = "sheets";
  dialog.replaceChildren(...parts, close);
  dialog.showModal();
}
