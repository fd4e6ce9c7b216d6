"use strict";
// All text goes in as text nodes, never as markup; cards are made when they are scrolled to.
const PAGE = 24, ROWS_SHOWN = 8;
const PALETTE = [[230, 70, 70], [60, 150, 240], [250, 190, 50], [70, 190, 110], [170, 100, 230], [245, 130, 60],
  [40, 190, 190], [240, 110, 180], [150, 190, 40], [120, 130, 250], [200, 140, 100], [90, 210, 240]];
const HEAT = [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]];
const TRUTH = [70, 200, 120];
const count = new Intl.NumberFormat("en");

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name in element && name !== "role") element[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// ---------------------------------------------------------------- counts
function size(bytes) {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB`
    : `${(bytes / 1e9).toFixed(1)} GB`;
}

function bars(title, pairs, note, kind) {
  const top = Math.max(1, ...pairs.map(([, n]) => n));
  return make("div", {className: "card"}, make("h3", {}, title), note ? make("p", {className: "soft"}, note) : null,
    ...pairs.map(([name, n]) => make("div", {className: `bar ${kind || ""}`}, make("span", {}, make("bdi", {}, String(name))),
      make("i", {style: `width:${(100 * n / top).toFixed(2)}%`}), make("span", {className: "number"}, count.format(n)))));
}

function histogram(title, {bars: steps, step}, note, label = (value) => String(+value.toFixed(3))) {
  if (!steps.length) return null;
  const top = Math.max(...steps.map(([, n]) => n));
  const last = steps[steps.length - 1][0] + step;
  return make("div", {className: "card"}, make("h3", {}, title), make("p", {className: "soft"}, note),
    make("div", {className: "columns", role: "img", ariaLabel: title}, ...steps.map(([from, n]) => make("i", {
      style: `height:${(100 * n / top).toFixed(2)}%`, title: `${label(from)} to ${label(from + step)}: ${count.format(n)}`}))),
    make("div", {className: "axis"}, make("span", {}, label(steps[0][0])), make("span", {}, label((steps[0][0] + last) / 2)),
      make("span", {}, label(last))));
}

function tableOf(head, rows) {
  return make("div", {className: "scroll"}, make("table", {},
    head.length ? make("thead", {}, make("tr", {}, ...head.map((name) => make("th", {scope: "col"}, name)))) : null,
    make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell)))))));
}

function runs(stages) {
  const number = (value) => typeof value === "number" ? count.format(Math.round(value * 10) / 10) : String(value ?? "");
  return stages.map((stage) => make("details", {className: "card", style: "margin-bottom:.7rem"},
    make("summary", {}, make("b", {}, stage.stage),
      ` ${count.format(stage.rows)} rows, ${size(stage.bytes)} in ${count.format(stage.shards)} shards, begun ${stage.created}`),
    tableOf([], [
      ...stage.settings.map(([name, value]) => [name, make("code", {}, value)]),
      ["versions", Object.entries(stage.versions).map((pair) => pair.join(" ")).join(", ")],
      ...Object.entries(stage.inputs).map(([name, sum]) => [name, make("code", {}, sum)]),
    ]),
    tableOf(["run", "rows", "failed", "reused", "seconds", "rows/s", "workers"], stage.runs.map((run) => [run.at, run.rows,
      run.failed, run.reused, run.seconds, run.rate, run.workers].map(number)))));
}

// ---------------------------------------------------------------- masks
// COCO's compressed runs: five bits a character, from the fourth run on differences, column by column.
function bitmap(counts, height, width) {
  const mask = new Uint8Array(height * width), lengths = [];
  for (let at = 0, place = 0, inside = false; at < counts.length; inside = !inside) {
    let value = 0, shift = 0, bits;
    do {
      bits = counts.charCodeAt(at++) - 48;
      value += (bits & 31) * 2 ** shift;
      shift += 5;
    } while (bits & 32 && at < counts.length);
    if (bits & 16) value -= 2 ** shift;
    if (lengths.length > 2) value += lengths[lengths.length - 2];
    lengths.push(value);
    if (inside) mask.fill(1, place, place + value);
    place += value;
  }
  return mask;
}

// Masks at the size of the canvas: for each, which of its pixels lie inside.
function scaled([height, width], masks, wide, high) {
  return masks.map(([counts, area]) => {
    const whole = bitmap(counts, height, width), small = new Uint8Array(wide * high);
    for (let y = 0; y < high; y++) {
      const row = Math.floor((y + 0.5) * height / high);
      for (let x = 0; x < wide; x++) small[y * wide + x] = whole[Math.floor((x + 0.5) * width / wide) * height + row];
    }
    return {small, area};
  });
}

function paint(context, base, masks, wide, high, only, colour) {
  const frame = new ImageData(new Uint8ClampedArray(base.data), wide, high), pixels = frame.data;
  const order = masks.map((_, at) => at).sort((a, b) => masks[b].area - masks[a].area);
  for (const at of order) {
    if (only !== null && at !== only) continue;
    const {small} = masks[at], [red, green, blue] = colour || PALETTE[at % PALETTE.length];
    for (let place = 0; place < small.length; place++) {
      if (!small[place]) continue;
      const x = place % wide;
      const edge = x === 0 || x === wide - 1 || place < wide || place >= small.length - wide || !small[place - 1] || !small[place + 1]
        || !small[place - wide] || !small[place + wide];
      const share = edge ? 0.95 : only === null ? 0.28 : 0.45, to = place * 4;
      pixels[to] += (red - pixels[to]) * share;
      pixels[to + 1] += (green - pixels[to + 1]) * share;
      pixels[to + 2] += (blue - pixels[to + 2]) * share;
    }
  }
  context.putImageData(frame, 0, 0);
}

function said(mask, at, total) {
  const [, area, iou, stability] = mask;
  return `mask ${at + 1} of ${total}, ${count.format(area)} px` + (iou === null ? "" : `, predicted IoU ${iou.toFixed(2)}`)
    + (stability === null ? "" : `, stability ${stability.toFixed(2)}`);
}

// A picture with its masks; returns the element and a way to single out one mask.
function view(picture, name) {
  const [height, width] = picture.size, ratio = Math.min(1, 320 / Math.max(height, width)) * (Math.max(height, width) < 160 ? 3 : 1);
  const wide = Math.max(1, Math.round(width * ratio)), high = Math.max(1, Math.round(height * ratio));
  const total = picture.masks.length;
  const canvas = make("canvas", {width: wide, height: high, tabIndex: 0, role: "img", ariaLabel: `${name} with ${total} masks`});
  const caption = make("p", {className: "name"}, name);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  let masks = [], base = null, shown = null;
  const show = (only) => {
    if (base === null || only === shown) return;
    shown = only;
    paint(context, base, masks, wide, high, only);
    caption.textContent = only === null ? name : said(picture.masks[only], only, total);
  };
  const ready = () => {
    base = context.getImageData(0, 0, wide, high);
    masks = scaled(picture.size, picture.masks, wide, high);
    shown = undefined;
    show(null);
    canvas.dataset.drawn = "yes";
  };
  if (picture.thumbnail) {
    const image = new Image();
    image.onload = () => { context.imageSmoothingEnabled = ratio <= 1; context.drawImage(image, 0, 0, wide, high); ready(); };
    image.onerror = ready;
    image.src = picture.thumbnail;
  } else {
    context.fillStyle = "#8a8f9c";
    context.fillRect(0, 0, wide, high);
    ready();
  }
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - box.left) / box.width * wide), y = Math.floor((event.clientY - box.top) / box.height * high);
    let best = null;
    masks.forEach(({small, area}, at) => { if (small[y * wide + x] && (best === null || area < masks[best].area)) best = at; });
    show(best);
  });
  // A mask that is none of the proposals, such as the truth.
  const other = (label, counts) => {
    if (base === null) return;
    shown = undefined;
    paint(context, base, scaled(picture.size, [[counts, 0]], wide, high), wide, high, 0, TRUTH);
    caption.textContent = label;
  };
  canvas.addEventListener("pointerleave", () => show(null));
  canvas.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (event.key === "Escape") show(null);
    else if (step && total) { event.preventDefault(); show(shown === null ? (step > 0 ? 0 : total - 1) : (shown + step + total) % total); }
  });
  return {element: make("div", {className: "view"}, canvas, caption), show, other};
}

function heat([high, wide, text], peak) {
  const levels = atob(text), canvas = make("canvas", {width: wide, height: high}), context = canvas.getContext("2d");
  const frame = context.createImageData(wide, high);
  for (let place = 0; place < levels.length; place++) {
    const at = levels.charCodeAt(place) / 255 * (HEAT.length - 1), low = Math.min(Math.floor(at), HEAT.length - 2);
    for (let channel = 0; channel < 3; channel++) {
      frame.data[place * 4 + channel] = HEAT[low][channel] + (HEAT[low + 1][channel] - HEAT[low][channel]) * (at - low);
    }
    frame.data[place * 4 + 3] = 255;
  }
  context.putImageData(frame, 0, 0);
  return make("figure", {}, canvas, make("figcaption", {}, peak));
}

// ---------------------------------------------------------------- gallery
function verdict([hit, iou]) {
  return make("span", {className: `badge ${hit ? "good" : "bad"}`}, `${hit ? "hit" : "miss"}, IoU ${Math.round(100 * iou)} %`);
}

function line(content, at, drawn) {
  const {gallery} = content, value = (name) => { const code = gallery[name].codes[at]; return code < 0 ? null : gallery[name].values[code]; };
  const [ref, sent] = gallery.ids[at], scores = content.scores[at], evaluated = content.evaluation[at], maps = content.maps[at];
  const tags = [value("dataset"), value("split"), value("source"), ref === null ? null : `ref ${ref}`, sent === null ? null : `sentence ${sent}`];
  const buttons = [];
  const single = (label, mask) => drawn && buttons.push(make("button", {type: "button", onclick: () => drawn.show(mask)}, label));
  if (scores && scores.length) {
    const best = scores.indexOf(Math.max(...scores));
    single(`best score ${scores[best].toFixed(3)}`, best);
  }
  if (evaluated && evaluated[4] !== null && evaluated[4] !== undefined) single("prediction", evaluated[4]);
  if (drawn && content.truth[at]) {
    buttons.push(make("button", {type: "button", onclick: () => drawn.other("truth", content.truth[at])}, "truth"));
  }
  return make("div", {className: "row"},
    make("div", {className: "text", dir: "auto"}, gallery.text[at] || "(empty)", evaluated ? verdict(evaluated) : null),
    make("div", {}, ...gallery.phrases[at].map((phrase) => make("span", {className: "chip", dir: "auto"}, phrase))),
    value("error") ? make("div", {className: "bad"}, value("error")) : null,
    make("div", {className: "tag"}, [...tags.filter((tag) => tag), ...gallery.violations.lists[at].map(
      (code) => `violates ${gallery.violations.values[code]}`)].join(" · "), " ", ...buttons),
    maps ? make("div", {className: "maps"}, ...maps.map((map, stage) => heat(map, `stage ${stage + 1}`))) : null);
}

function card(content, image, rows) {
  const picture = image < 0 ? null : content.pictures[image];
  const name = image < 0 ? "no image" : content.gallery.image.values[image];
  const drawn = picture ? view(picture, name) : null;
  const words = make("div", {className: "words"}, drawn ? null : make("p", {className: "name"}, name));
  const add = (some) => words.append(...some.map((at) => line(content, at, drawn)));
  add(rows.slice(0, ROWS_SHOWN));
  if (rows.length > ROWS_SHOWN) {
    const more = make("button", {type: "button", onclick: () => { more.remove(); add(rows.slice(ROWS_SHOWN)); }},
      `${rows.length - ROWS_SHOWN} more`);
    words.append(more);
  }
  return make("article", {className: "card entry"}, drawn && drawn.element, words);
}

function gallery(content) {
  const data = content.gallery, total = data.text.length, host = document.getElementById("gallery");
  const lower = data.text.map((text, at) => `${text}\n${data.phrases[at].join("\n")}`.toLowerCase());
  const form = document.getElementById("filters"), chosen = {};
  const search = make("input", {type: "search", id: "search", placeholder: "words in an expression or its phrases"});
  form.append(make("label", {className: "wide"}, "text", search));
  for (const name of ["dataset", "split", "source", "violations", "status"]) {
    const select = make("select", {id: `filter-${name}`}, make("option", {value: ""}, "all"),
      ...data[name].values.map((value, code) => make("option", {value: String(code)}, value)));
    if (name === "violations") select.append(make("option", {value: "any"}, "any"), make("option", {value: "none"}, "none"));
    select.addEventListener("change", apply);
    chosen[name] = select;
    form.append(make("label", {}, name === "violations" ? "violation" : name, select));
  }
  const found = make("output", {id: "found"});
  form.append(make("button", {type: "button", onclick: () => { search.value = ""; Object.values(chosen).forEach((s) => { s.value = ""; }); apply(); }},
    "clear"), found);
  let timer = 0, groups = [], next = 0;
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(apply, 120); });

  function violates(at, wanted) {
    const list = data.violations.lists[at];
    return wanted === "any" ? list.length > 0 : wanted === "none" ? list.length === 0 : list.includes(Number(wanted));
  }

  function apply() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean), byImage = new Map();
    const codes = ["dataset", "split", "source", "status"].filter((name) => chosen[name].value !== "")
      .map((name) => [data[name].codes, Number(chosen[name].value)]);
    const violation = chosen.violations.value;
    let matches = 0;
    for (let at = 0; at < total; at++) {
      if (!codes.every(([column, code]) => column[at] === code) || !words.every((word) => lower[at].includes(word))) continue;
      if (violation !== "" && !violates(at, violation)) continue;
      matches++;
      const image = data.image.codes[at], key = image < 0 ? `row ${at}` : image, own = byImage.get(key);
      if (own) own[1].push(at); else byImage.set(key, [image, [at]]);
    }
    groups = [...byImage.values()];
    // Entries with a picture first; the order is otherwise the store's.
    groups = [...groups.filter(([image]) => content.pictures[image]), ...groups.filter(([image]) => !content.pictures[image])];
    found.textContent = `${count.format(matches)} of ${count.format(total)} expressions, ${count.format(groups.length)} entries`;
    host.replaceChildren();
    next = 0;
    extend();
  }

  function extend() {
    const some = groups.slice(next, next + PAGE);
    next += some.length;
    host.append(...some.map(([image, rows]) => card(content, image, rows)));
  }

  const end = document.getElementById("more");
  new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting) && next < groups.length) extend(); },
    {rootMargin: "600px"}).observe(end);
  apply();
}

unpack(document.getElementById("content").textContent).then((content) => {
  const {phrases, proposals} = content, rows = phrases.splits.reduce((sum, [, n]) => sum + n, 0);
  document.getElementById("lead").textContent = `${content.store}: ${count.format(rows)} expressions, ${
    count.format(proposals.status.reduce((sum, [, n]) => sum + n, 0))} images. The gallery holds ${
    count.format(content.gallery.text.length)} expressions and ${count.format(Object.keys(content.pictures).length)} pictures.`;
  document.getElementById("runs").append(...runs(content.stages));
  document.getElementById("phrases").append(bars("Splits", phrases.splits), bars("Where the phrases come from", phrases.sources,
    "The rung of the ladder that was kept"), bars("Phrases an expression", phrases.lengths),
  ...[["Violations", phrases.violations, "Rules that the kept phrases break"], ["Turned down", phrases.rejected, "Answers rejected, by rung and rule"],
    ["Failures", phrases.failures, "Rows without phrases", "failed"]].filter(([, pairs]) => pairs.length).map((args) => bars(...args)));
  document.getElementById("proposals").append(...[bars("Images", proposals.status),
    histogram("Masks an image", proposals.masks, "Images by their number of masks", (value) => String(Math.round(value))),
    histogram("Area", proposals.area, "Masks by their share of the image", (value) => `${+(100 * 10 ** value).toPrecision(2)} %`),
    histogram("Predicted IoU", proposals.predicted_iou, "Masks, by the generator's own estimate"),
    histogram("Stability", proposals.stability_score, "Masks, by stability score"),
    proposals.failures.length ? bars("Failures", proposals.failures, "Images without masks", "failed") : null].filter(Boolean));
  gallery(content);
  document.documentElement.dataset.ready = "yes";
}).catch((error) => { document.getElementById("lead").textContent = `This page cannot be shown: ${error}`; throw error; });
