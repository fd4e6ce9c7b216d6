// The cards of a gallery: one photo for all expressions of an image, with search, filters and order.
const ROWS_SHOWN = 8;
const WORDS = {
  hit: "PointM: whether the highest response lies on the object.",
  iou: "Intersection over union of the predicted and the true mask.",
  margin: "How much better the map fits the chosen proposal than the best other one, as a difference of soft IoU. Needs no ground truth.",
  entropy: "How widely the response is spread: 0 on one pixel, 1 over all equally. Needs no ground truth.",
};

// A score is [hit or null without a target, IoU, peak row, peak column, proposal, margin, entropy, phrases].
function verdict([hit, iou], who) {
  const text = hit === null ? "no target" : `${hit ? "hit" : "miss"}, IoU ${Math.round(100 * iou)}%`;
  return make("span", {className: `badge ${hit === null ? "soft" : hit ? "good" : "bad"}`}, `${who ? `${who}: ` : ""}${text}`);
}

// What a run says about one expression: the outlines for the photo, and a heat map for each stage.
function evidence(picture, {score, maps, threshold, who, run}) {
  if (!score) return {outlines: [], maps: []};
  const last = maps && maps[maps.length - 1], chosen = score[4] ?? null, phrases = score[7] || [];
  const mask = chosen === null ? (last ? {map: last, threshold} : null) : chosen < picture.masks.length ? chosen : null;
  const scale = Math.max(0, ...(maps || []).map((map) => map[3]));
  return {outlines: [{mask, colour: PREDICTIONS[run || 0], point: [score[2], score[3]]}],
    maps: (maps || []).map((map, stage) => [`${who ? `${who} ` : ""}${stage + 1}`, phrases[stage] ?? "whole expression", map, scale])};
}

function gradient(scale) {
  return make("div", {className: "scale"}, make("span", {}, "0"), make("i", {style: `background:linear-gradient(90deg,${HEAT.map(css).join(",")})`}),
    make("span", {}, String(+scale.toPrecision(3))));
}

// One expression; `row` has text, badges, phrases, tags, error, buttons (label, mask) and evidence (outlines, maps).
function line(row, drawn, maps) {
  const facts = row.evidence, own = drawn && facts && (facts.outlines.length || facts.maps.length);
  const detail = make("div", {className: own ? "tag" : "tag inline", hidden: Boolean(own)}, make("bdi", {}, row.tags.filter(Boolean).join(" · ")), ...row.buttons.map(([label, mask]) =>
    make("button", {type: "button", className: "small", onclick: () => drawn.pick(mask)}, label)));
  const element = make("div", {className: "row"});
  const select = (aloud) => {
    for (const other of element.parentElement ? element.parentElement.children : []) if (other.unselect) other.unselect();
    element.classList.add("chosen");
    button.setAttribute("aria-pressed", "true");
    detail.hidden = false;
    drawn.outline(facts.outlines);
    const scales = facts.maps.map(([,,, scale]) => scale);
    maps.replaceChildren(...facts.maps.map((map) => drawn.heat(...map)), ...[...new Set(scales)].map(gradient));
    if (aloud) announce(`${row.text}: ${row.badges.map((badge) => badge.textContent).join(", ")}`);
  };
  const text = own ? make("button", {type: "button", className: "text pick", dir: "auto", onclick: () => select(true)}, row.text || "(empty)")
    : make("span", {className: "text", dir: "auto"}, row.text || "(empty)");
  const button = text;
  if (own) {
    text.setAttribute("aria-pressed", "false");
    element.unselect = () => { element.classList.remove("chosen"); text.setAttribute("aria-pressed", "false"); detail.hidden = true; };
    element.select = select;
  }
  element.append(text, ...row.badges, ...row.phrases.map((phrase) => make("span", {className: "chip", dir: "auto"}, phrase)),
    ...(row.error ? [make("div", {className: "bad"}, row.error)] : []), detail);
  return element;
}

function imageCard(picture, name, rows) {
  const drawn = picture ? view(picture, name) : null, maps = make("div", {className: "maps"});
  const words = make("div", {className: "words"}, drawn ? null : make("p", {className: "name"}, name));
  const add = (some) => words.append(...some.map((row) => line(row(), drawn, maps)));
  add(rows.slice(0, ROWS_SHOWN));
  if (rows.length > ROWS_SHOWN) {
    const more = make("button", {type: "button", onclick: () => { more.remove(); add(rows.slice(ROWS_SHOWN)); }},
      `${rows.length - ROWS_SHOWN} more`);
    more.className = "small";
    words.append(more);
  }
  const first = [...words.children].find((row) => row.select);
  if (first) first.select(false);
  return make("article", {className: `card entry ${drawn ? rows.length < 4 ? "few" : "" : "bare"}`}, drawn && drawn.element, words, first ? maps : null);
}

// ---------------------------------------------------------------- search, filters, order
// `lists` are [name, label, options, test(row, value)], `orders` [name, label, key(row)]: the lowest key first, null last.
function gallery({form, host, end, total, lower, lists, orders, image, card, pictured}) {
  const fill = endless(host, end), rows = [...Array(total).keys()];
  const search = make("input", {type: "search", id: "search", placeholder: "search words"});
  const found = make("output", {id: "found"}), chosen = {};
  const clear = () => {
    search.value = "";
    for (const list of Object.values(chosen)) list.selectedIndex = 0;
    apply();
  };

  function apply() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const tests = lists.filter(([name]) => chosen[name] && chosen[name].value !== "").map(([name,,, test]) => [test, chosen[name].value]);
    const key = (orders.find(([name]) => name === (chosen.order ? chosen.order.value : "")) || orders[0])[2];
    const matches = rows.filter((at) => words.every((word) => lower[at].includes(word)) && tests.every(([test, value]) => test(at, value)));
    const keys = new Map(matches.map((at) => [at, key(at) ?? Infinity]));
    matches.sort((a, b) => (keys.get(a) === keys.get(b) ? a - b : keys.get(a) - keys.get(b)));
    const groups = new Map();
    for (const at of matches) {
      const code = image(at), name = code < 0 ? `row ${at}` : code;
      if (groups.has(name)) groups.get(name).push(at); else groups.set(name, [at]);
    }
    fill([...groups.values()].map((some) => () => card(image(some[0]), some)));
    if (!matches.length) {
      host.append(make("div", {className: "card empty"}, make("p", {}, total ? "No expression matches these filters." : "There are no expressions."),
        total ? make("button", {type: "button", onclick: () => { clear(); search.focus(); }}, "clear the filters") : null));
    }
    const images = [...groups.keys()].filter((name) => typeof name === "number");
    found.textContent = `${count.format(matches.length)} of ${count.format(total)} expressions, ${count.format(groups.size)} ${groups.size === 1 ? "entry" : "entries"}, ${
      count.format(images.filter(pictured).length)} with a picture`;
  }

  form.append(make("label", {className: "wide"}, "text", search));
  const named = [...(orders.length > 1 ? [["order", "order", orders.map(([name, label]) => [name, label])]] : []), ...lists];
  for (const [name, label, options] of named) {
    if (options.length < (name === "order" ? 2 : 3)) continue;  // a choice of one value is none
    chosen[name] = make("select", {id: `filter-${name}`}, ...options.map(([value, text]) => make("option", {value}, text)));
    chosen[name].addEventListener("change", apply);
    form.append(make("label", {}, label, chosen[name]));
  }
  let timer = 0;
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(apply, 120); });
  form.append(make("button", {type: "button", onclick: clear}, "clear"), found);
  apply();
}

const named = (values) => [["", "all"], ...values.map((value, code) => [String(code), value])];

// The switches and the colours above the cards.
function legend(form, predictions, truth) {
  display.withResults = Boolean(predictions.length || truth);
  if (display.withResults) display.mode = "off";
  const key = (colour, name) => make("span", {className: "key"}, make("i", {style: `background:${css(colour)}`}), name);
  form.append(make("div", {className: "legend-line"}, switches(display.withResults), ...predictions.map((name, run) => key(PREDICTIONS[run], name)),
    truth ? key(TRUTH, "ground truth") : null));
}
