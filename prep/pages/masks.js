// Masks: run lengths to pixels, outlines and tints over a photo, response maps as heat.
const PALETTE = [[230, 70, 70], [60, 150, 240], [250, 190, 50], [70, 190, 110], [170, 100, 230], [245, 130, 60],
  [40, 190, 190], [240, 110, 180], [150, 190, 40], [120, 130, 250], [200, 140, 100], [90, 210, 240]];
const HEAT = [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]];
const TRUTH = [70, 200, 120], PREDICTIONS = [[60, 150, 240], [245, 130, 60]];
const css = (colour) => `rgb(${colour.join(" ")})`;

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

// A mask as run lengths, resized to the canvas.
function scaled(counts, [height, width], [high, wide]) {
  const whole = bitmap(counts, height, width), small = new Uint8Array(wide * high);
  for (let y = 0; y < high; y++) {
    const row = Math.floor((y + 0.5) * height / high);
    for (let x = 0; x < wide; x++) small[y * wide + x] = whole[Math.floor((x + 0.5) * width / wide) * height + row];
  }
  return small;
}

function onEdge(small, place, wide) {
  const x = place % wide;
  return x === 0 || x === wide - 1 || place < wide || place >= small.length - wide || !small[place - 1] || !small[place + 1]
    || !small[place - wide] || !small[place + wide];
}

function blend(pixels, place, colour, share) {
  for (let channel = 0; channel < 3; channel++) pixels[place * 4 + channel] += (colour[channel] - pixels[place * 4 + channel]) * share;
}

// Proposals over the photo: outlines, or tints with outlines, the largest first; `only` is the number of a single one.
function paint(pixels, masks, wide, mode, only) {
  const order = masks.map((_, at) => at).sort((a, b) => masks[b].area - masks[a].area);
  for (const at of order) {
    if (only !== null && at !== only) continue;
    const {small} = masks[at], colour = PALETTE[at % PALETTE.length], inner = only !== null ? 0.45 : mode === "tinted" ? 0.28 : 0;
    for (let place = 0; place < small.length; place++) {
      if (!small[place]) continue;
      const share = onEdge(small, place, wide) ? 0.95 : inner;
      if (share) blend(pixels, place, colour, share);
    }
  }
}

// A thick outline with a dark rim: visible on a photo of any colours.
function trace(pixels, small, wide, high, colour) {
  const thick = Math.max(2, Math.round(Math.max(wide, high) / 300));
  for (const [reach, ink, share] of [[thick + 1, [0, 0, 0], 0.55], [thick, colour, 1]]) {
    const done = new Uint8Array(small.length);
    for (let place = 0; place < small.length; place++) {
      if (!small[place] || !onEdge(small, place, wide)) continue;
      const x = place % wide, y = (place - x) / wide;
      for (let v = Math.max(0, y - reach + 1); v <= Math.min(high - 1, y + reach - 1); v++) {
        for (let u = Math.max(0, x - reach + 1); u <= Math.min(wide - 1, x + reach - 1); u++) {
          if (!done[v * wide + u]) { done[v * wide + u] = 1; blend(pixels, v * wide + u, ink, share); }
        }
      }
    }
  }
}

function ring(context, x, y, radius, colour) {
  for (const [style, width] of [["#000", 5], [colour, 2.5]]) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.strokeStyle = style;
    context.lineWidth = width;
    context.stroke();
  }
}

// The levels of a byte map in [0, 1] at another size, bilinear with aligned pixel centres.
function levelsAt([high, wide, text], [height, width]) {
  const levels = atob(text), out = new Float32Array(height * width);
  for (let y = 0; y < height; y++) {
    const v = Math.min(Math.max((y + 0.5) * high / height - 0.5, 0), high - 1), top = Math.floor(v), below = Math.min(top + 1, high - 1);
    for (let x = 0; x < width; x++) {
      const u = Math.min(Math.max((x + 0.5) * wide / width - 0.5, 0), wide - 1), left = Math.floor(u), right = Math.min(left + 1, wide - 1);
      const at = (row, column) => levels.charCodeAt(row * wide + column);
      out[y * width + x] = ((at(top, left) * (1 - u + left) + at(top, right) * (u - left)) * (1 - v + top)
        + (at(below, left) * (1 - u + left) + at(below, right) * (u - left)) * (v - top)) / 255;
    }
  }
  return out;
}

// A response map over the grey photo; `scale` is the value of the brightest colour, the same for all stages.
function paintHeat(pixels, map, [high, wide], scale) {
  const levels = levelsAt(map, [high, wide]), factor = scale > 0 ? map[3] / scale : 0;
  for (let place = 0; place < levels.length; place++) {
    const level = Math.min(levels[place] * factor, 1), at = level * (HEAT.length - 1), low = Math.min(Math.floor(at), HEAT.length - 2);
    const grey = (pixels[place * 4] + pixels[place * 4 + 1] + pixels[place * 4 + 2]) / 3 * 0.6, share = Math.min(level * 1.6, 0.85);
    for (let channel = 0; channel < 3; channel++) {
      const heat = HEAT[low][channel] + (HEAT[low + 1][channel] - HEAT[low][channel]) * (at - low);
      pixels[place * 4 + channel] = grey * (1 - share) + heat * share;
    }
  }
}

function said(mask, at, total) {
  const [, area, iou, stability] = mask;
  return `mask ${at + 1} of ${total}, ${count.format(area)} px` + (iou === null ? "" : `, predicted IoU ${iou.toFixed(2)}`)
    + (stability === null ? "" : `, stability ${stability.toFixed(2)}`);
}
