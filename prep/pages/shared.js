"use strict";
// Shared by the pages of both programs. All text is inserted as text nodes, never as markup.
const PAGE = 24;
const PALETTE = [[230, 70, 70], [60, 150, 240], [250, 190, 50], [70, 190, 110], [170, 100, 230], [245, 130, 60],
  [40, 190, 190], [240, 110, 180], [150, 190, 40], [120, 130, 250], [200, 140, 100], [90, 210, 240]];
const HEAT = [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]];
const TRUTH = [70, 200, 120], PREDICTION = [60, 150, 240];
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
function bars(title, pairs, note, kind) {
  const top = Math.max(1, ...pairs.map(([, n]) => n));
  return make("div", {className: "card"}, make("h3", {}, title), note ? make("p", {className: "soft"}, note) : null,
    ...pairs.map(([name, n]) => make("div", {className: `bar ${kind || ""}`}, make("span", {}, make("bdi", {}, String(name))),
      make("i", {style: `width:${(100 * n / top).toFixed(2)}%`}), make("span", {className: "number"}, count.format(n)))));
}

function tableOf(head, rows) {
  return make("div", {className: "scroll"}, make("table", {},
    head.length ? make("thead", {}, make("tr", {}, ...head.map((name) => make("th", {scope: "col"}, name)))) : null,
    make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell)))))));
}

// ---------------------------------------------------------------- masks
// COCO's compressed RLE: five bits per character, differences from the fourth run on, column by column.
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

// Masks resized to the canvas.
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

function onEdge(small, place, wide) {
  const x = place % wide;
  return x === 0 || x === wide - 1 || place < wide || place >= small.length - wide || !small[place - 1] || !small[place + 1]
    || !small[place - wide] || !small[place + wide];
}

// One mask with a coloured outline and a darkened background: visible on a picture of any colours.
function cutOut(context, base, small, wide, high, colour) {
  const frame = new ImageData(new Uint8ClampedArray(base.data), wide, high), pixels = frame.data;
  for (let place = 0; small && place < small.length; place++) {
    const drawn = small[place] ? onEdge(small, place, wide) && colour : null;
    if (small[place] && !drawn) continue;
    for (let channel = 0; channel < 3; channel++) pixels[place * 4 + channel] = drawn ? drawn[channel] : pixels[place * 4 + channel] * 0.35;
  }
  context.putImageData(frame, 0, 0);
}

function paint(context, base, masks, wide, high, only) {
  const frame = new ImageData(new Uint8ClampedArray(base.data), wide, high), pixels = frame.data;
  const order = masks.map((_, at) => at).sort((a, b) => masks[b].area - masks[a].area);
  for (const at of order) {
    if (only !== null && at !== only) continue;
    const {small} = masks[at], [red, green, blue] = PALETTE[at % PALETTE.length];
    for (let place = 0; place < small.length; place++) {
      if (!small[place]) continue;
      const share = onEdge(small, place, wide) ? 0.95 : only === null ? 0.28 : 0.45, to = place * 4;
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

// A picture with its masks; returns the element and a function to highlight one mask.
function view(picture, name) {
  const [height, width] = picture.size, ratio = Math.min(1, 320 / Math.max(height, width)) * (Math.max(height, width) < 160 ? 3 : 1);
  const wide = Math.max(1, Math.round(width * ratio)), high = Math.max(1, Math.round(height * ratio));
  const total = picture.masks.length;
  const canvas = make("canvas", {width: wide, height: high, tabIndex: 0, role: "img", ariaLabel: `${name} with ${total} masks`});
  const caption = make("p", {className: "name"}, name);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const waiting = [];
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
    waiting.forEach((draw) => draw());
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
  canvas.addEventListener("pointerleave", () => show(null));
  canvas.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (event.key === "Escape") show(null);
    else if (step && total) { event.preventDefault(); show(shown === null ? (step > 0 ? 0 : total - 1) : (shown + step + total) % total); }
  });
  // One mask (a proposal's number, or bits at the picture's size) as a small figure, with its point.
  const figure = (label, mask, colour, point) => {
    const own = make("canvas", {width: wide, height: high, role: "img", ariaLabel: label});
    const draw = () => {
      const bits = typeof mask === "number" ? masks[mask].small : typeof mask === "string" ? scaled(picture.size, [[mask, 0]], wide, high)[0].small
        : mask && resized(mask.bits, mask.size, [high, wide]);
      const target = own.getContext("2d");
      cutOut(target, base, bits, wide, high, colour);
      if (point) ring(target, (point[1] + 0.5) * wide / width, (point[0] + 0.5) * high / height, Math.max(5, wide / 22));
    };
    if (base === null) waiting.push(draw); else draw();
    return make("figure", {}, own, make("figcaption", {}, label));
  };
  return {element: make("div", {className: "view"}, canvas, caption), show, figure};
}

function ring(context, x, y, radius) {
  for (const [style, width] of [["#000", 5], ["#fff", 2.5]]) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.strokeStyle = style;
    context.lineWidth = width;
    context.stroke();
  }
}

function resized(bits, [height, width], [high, wide]) {
  const small = new Uint8Array(wide * high);
  for (let y = 0; y < high; y++) {
    for (let x = 0; x < wide; x++) {
      small[y * wide + x] = bits[Math.floor((y + 0.5) * height / high) * width + Math.floor((x + 0.5) * width / wide)];
    }
  }
  return small;
}

// The mask of a byte map at the size of its picture: bilinear resize, then a threshold relative to the maximum.
function above([high, wide, text], [height, width], threshold) {
  const levels = atob(text), bits = new Uint8Array(height * width);
  for (let y = 0; y < height; y++) {
    const v = Math.min(Math.max((y + 0.5) * high / height - 0.5, 0), high - 1), top = Math.floor(v), below = Math.min(top + 1, high - 1);
    for (let x = 0; x < width; x++) {
      const u = Math.min(Math.max((x + 0.5) * wide / width - 0.5, 0), wide - 1), left = Math.floor(u), right = Math.min(left + 1, wide - 1);
      const at = (row, column) => levels.charCodeAt(row * wide + column);
      const level = (at(top, left) * (1 - u + left) + at(top, right) * (u - left)) * (1 - v + top)
        + (at(below, left) * (1 - u + left) + at(below, right) * (u - left)) * (v - top);
      if (level > threshold * 255) bits[y * width + x] = 1;
    }
  }
  return {bits, size: [height, width]};
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

function verdict([hit, iou], who) {
  return make("span", {className: `badge ${hit ? "good" : "bad"}`}, `${who ? `${who}: ` : ""}${hit ? "hit" : "miss"}, IoU ${Math.round(100 * iou)}%`);
}

// For one evaluated expression: response maps per stage, the predicted mask with its point, and the ground truth.
function evidence(picture, drawn, {score, maps, truth, threshold, who}) {
  const shown = (maps || []).map((map, stage) => heat(map, `${who ? `${who}, ` : ""}stage ${stage + 1}`));
  if (drawn && score) {
    const chosen = score[4] ?? null, last = maps && maps[maps.length - 1];
    const mask = chosen === null ? last && above(last, picture.size, threshold) : chosen < picture.masks.length ? chosen : null;
    shown.push(drawn.figure(who ? `${who}, prediction` : "prediction", mask, PREDICTION, [score[2], score[3]]));
  }
  if (drawn && truth !== undefined) shown.push(drawn.figure("ground truth", truth, TRUTH));
  return shown;
}

// Appends cards on scrolling; returns a function that replaces the cards, each given as a function that creates it.
function endless(host, end) {
  let cards = [], next = 0;
  const extend = () => {
    const some = cards.slice(next, next + PAGE);
    next += some.length;
    host.append(...some.map((card) => card()));
  };
  new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting) && next < cards.length) extend(); },
    {rootMargin: "600px"}).observe(end);
  return (others) => {
    cards = others;
    next = 0;
    host.replaceChildren();
    extend();
  };
}

// A search field and select lists; `changed` is called with the words and the lists' values by name.
function filters(form, lists, changed) {
  const search = make("input", {type: "search", id: "search", placeholder: "search words"});
  const found = make("output", {id: "found"}), chosen = {};
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    found.textContent = changed(words, Object.fromEntries(Object.entries(chosen).map(([name, list]) => [name, list.value])));
  };
  form.append(make("label", {className: "wide"}, "text", search));
  for (const [name, label, options] of lists) {
    chosen[name] = make("select", {id: `filter-${name}`}, ...options.map(([value, text]) => make("option", {value}, text)));
    chosen[name].addEventListener("change", apply);
    form.append(make("label", {}, label, chosen[name]));
  }
  let timer = 0;
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(apply, 120); });
  form.append(make("button", {type: "button", onclick: () => {
    search.value = "";
    for (const list of Object.values(chosen)) list.selectedIndex = 0;
    apply();
  }}, "clear"), found);
  return apply;
}

function start(show) {
  unpack(document.getElementById("content").textContent).then((content) => {
    show(content);
    document.documentElement.dataset.ready = "yes";
  }).catch((error) => { document.getElementById("lead").textContent = `This page could not be displayed: ${error}`; throw error; });
}
