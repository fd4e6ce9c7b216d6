// A photo with its proposals, prediction and truth; one choice of what is drawn for the whole page.
const MODES = [["off", "photo", "no proposals"], ["outlines", "outlines", "outlines of all proposals"],
  ["tinted", "tinted", "all proposals, tinted"], ["one", "one", "one proposal at a time: arrow keys choose it"]];
const CARD = [320, 260], HEAT_BOX = [112, 84];  // the largest width and height, in pixels
const display = {mode: "outlines", results: true, views: new Set(), buttons: []};

function choose(mode, results = display.results) {
  Object.assign(display, {mode, results});
  for (const [button, pressed] of display.buttons) button.setAttribute("aria-pressed", String(pressed()));
  for (const view of display.views) if (view.host.isConnected) view.redraw(); else display.views.delete(view);
}

function switches(withResults) {
  const button = (label, title, pressed, onclick) => {
    const element = make("button", {type: "button", title, onclick}, label);
    display.buttons.push([element, pressed]);
    element.setAttribute("aria-pressed", String(pressed()));
    return element;
  };
  return make("div", {className: "switches", role: "group", ariaLabel: "what is drawn over the photos"},
    make("span", {}, "proposals"), ...MODES.map(([mode, label, title], at) =>
      button(label, `${title} (key ${at + 1})`, () => display.mode === mode, () => choose(mode))),
    withResults ? button("results", "outlines of prediction and truth (key r)", () => display.results, () => choose(display.mode, !display.results)) : null);
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  if (MODES[Number(event.key) - 1] && event.key !== "0") {
    choose(MODES[Number(event.key) - 1][0]);
    announce(MODES[Number(event.key) - 1][2]);
  } else if (event.key === "r" && display.withResults) {
    choose(display.mode, !display.results);
    announce(display.results ? "prediction and truth shown" : "prediction and truth hidden");
  }
});

// The pixels of a picture at some size, and its masks at that size, made when first asked for.
function surface(canvas, picture, box, most) {
  const [height, width] = picture.size, ratio = Math.min(box[0] / width, box[1] / height, most);
  const wide = canvas.width = Math.max(1, Math.round(width * ratio)), high = canvas.height = Math.max(1, Math.round(height * ratio));
  const context = canvas.getContext("2d", {willReadFrequently: true});
  let base = null, masks = null;
  const ready = new Promise((resolve) => {
    const done = () => { base = context.getImageData(0, 0, wide, high); resolve(); };
    context.fillStyle = "#8a8f9c";
    context.fillRect(0, 0, wide, high);
    if (!picture.thumbnail) { done(); return; }
    const image = new Image();
    image.onload = () => { context.imageSmoothingEnabled = Math.max(height, width) >= 160; context.drawImage(image, 0, 0, wide, high); done(); };
    image.onerror = done;
    image.src = picture.thumbnail;
  });
  const proposals = () => masks ??= picture.masks.map(([counts, area]) => ({small: scaled(counts, picture.size, [high, wide]), area}));
  const bits = (mask) => {
    if (typeof mask === "number") return proposals()[mask].small;
    if (typeof mask === "string") return scaled(mask, picture.size, [high, wide]);
    return levelsAt(mask.map, [high, wide]).map((level) => level > mask.threshold ? 1 : 0);
  };
  const draw = ({mode, only, outlines}) => {
    const frame = new ImageData(new Uint8ClampedArray(base.data), wide, high);
    if (only !== null || mode === "outlines" || mode === "tinted") paint(frame.data, proposals(), wide, mode, only);
    for (const {mask, colour} of outlines) if (mask !== null) trace(frame.data, bits(mask), wide, high, colour);
    context.putImageData(frame, 0, 0);
    for (const {point, colour} of outlines) {
      if (point) ring(context, (point[1] + 0.5) * wide / width, (point[0] + 0.5) * high / height, Math.max(5, Math.max(wide, high) / 40), css(colour));
    }
  };
  const drawHeat = (map, scale) => {
    const frame = new ImageData(new Uint8ClampedArray(base.data), wide, high);
    paintHeat(frame.data, map, [high, wide], scale);
    context.putImageData(frame, 0, 0);
  };
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - box.left) / box.width * wide), y = Math.floor((event.clientY - box.top) / box.height * high);
    let best = null;
    proposals().forEach(({small, area}, at) => { if (small[y * wide + x] && (best === null || area < masks[best].area)) best = at; });
    return best;
  };
  return {ready, draw, drawHeat, under, loaded: () => base !== null};
}

const inSight = new IntersectionObserver((entries) => {
  for (const {target, isIntersecting} of entries) { target.view.visible = isIntersecting; if (isIntersecting) target.view.redraw(); }
}, {rootMargin: "300px"});

// An interactive picture on `canvas`; `state.outlines` and `state.only` are shared by the card and the enlarged picture.
function interactive(canvas, caption, picture, name, state, box, most) {
  const shown = surface(canvas, picture, box, most), total = picture.masks.length;
  let drawn = "";
  const view = {host: canvas, visible: false, redraw() {
    const only = state.only === null && display.mode === "one" && total ? 0 : state.only;
    const key = `${display.mode} ${only} ${display.results} ${state.version}`;
    caption.textContent = only === null ? name : said(picture.masks[only], only, total);
    if (!view.visible || !shown.loaded() || key === drawn) return;
    drawn = key;
    shown.draw({mode: display.mode, only, outlines: display.results ? state.outlines : []});
    canvas.dataset.drawn = "yes";
  }};
  shown.ready.then(() => view.redraw());
  display.views.add(view);
  const pick = (only, aloud) => {
    if (only === state.only) return;
    state.only = only;
    view.redraw();
    if (aloud) announce(caption.textContent);
  };
  canvas.addEventListener("pointermove", (event) => { if (display.mode !== "off" && event.pointerType === "mouse" && shown.loaded()) pick(shown.under(event)); });
  canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") pick(null); });
  canvas.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    const from = state.only ?? (display.mode === "one" ? 0 : null);
    if (event.key === "Escape" && state.only !== null) { event.preventDefault(); pick(null, true); }
    else if (step && total) { event.preventDefault(); pick(from === null ? (step > 0 ? 0 : total - 1) : (from + step + total) % total, true); }
  });
  return {view, pick, shown};
}

// The picture of a card: returns its element, its state, and functions that show one mask, outlines or heat.
function view(picture, name) {
  const state = {only: null, outlines: [], version: 0};
  const canvas = make("canvas", {tabIndex: 0, role: "button", ariaLabel: `${name} with ${picture.masks.length} proposals: enlarge`});
  const caption = make("p", {className: "name"}, name);
  const {view: own, pick} = interactive(canvas, caption, picture, name, state, CARD, 4);
  canvas.view = own;
  inSight.observe(canvas);
  const open = () => enlarge(name, (body, box) => {
    const large = make("canvas", {tabIndex: 0, role: "img", ariaLabel: `${name}, enlarged`}), told = make("p", {className: "name"}, name);
    body.append(large, told);
    const {view: one} = interactive(large, told, picture, name, state, box, Infinity);
    one.visible = true;
    return large;
  });
  canvas.addEventListener("click", open);
  canvas.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); } });
  const outline = (outlines) => { Object.assign(state, {outlines, version: state.version + 1, only: null}); own.redraw(); };
  return {element: make("div", {className: "view"}, canvas, caption), pick, outline, heat: (label, phrase, map, scale) => heat(picture, label, phrase, map, scale)};
}

// One stage's response map with its phrase above it; a click enlarges it.
function heat(picture, label, phrase, map, scale) {
  const canvas = make("canvas", {role: "img", ariaLabel: `${label}: ${phrase}`});
  const small = surface(canvas, picture, HEAT_BOX, 4);
  small.ready.then(() => { small.drawHeat(map, scale); canvas.dataset.drawn = "yes"; });
  const open = () => enlarge(`${label}: ${phrase}`, (body, box) => {
    const large = make("canvas", {tabIndex: 0, role: "img", ariaLabel: `${label}: ${phrase}`}), whole = surface(large, picture, box, Infinity);
    whole.ready.then(() => whole.drawHeat(map, scale));
    body.append(make("p", {className: "name"}, `${label} `, make("bdi", {}, phrase)), large);
    return large;
  });
  return make("figure", {}, make("figcaption", {title: phrase}, make("span", {className: "soft"}, `${label} `), make("bdi", {}, phrase)),
    make("button", {type: "button", className: "plain", ariaLabel: `enlarge ${label}`, onclick: open}, canvas));
}

function enlarge(title, fill) {
  const box = [Math.max(200, Math.min(innerWidth - 48, 1600)), Math.max(200, innerHeight - 150)];
  const body = make("div", {}), dialog = make("dialog", {className: "large", ariaLabel: title}, make("div", {className: "bar-of-large"},
    switches(display.withResults), make("button", {type: "button", onclick: () => dialog.close()}, "close")), body);
  document.body.append(dialog);
  const focus = fill(body, box);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    dialog.remove();
    display.buttons = display.buttons.filter(([button]) => button.isConnected);
  });
  dialog.showModal();
  focus.focus();
}
