// Curves of a run's logs, with ticks, names and an optional log scale.
const SVG = "http://www.w3.org/2000/svg", LETTERS = ["A", "B"];
const NAMES = {
  lr: ["learning rate", "The step size of the new layers."], total: ["total loss", "The weighted sum of the losses below."],
  cls: ["classification", "cls: which texts describe the image, from the pooled response of each."],
  ras: ["region-aware shrinking", "ras: a later stage may not be more ambiguous than the one before (equation 7)."],
  iad: ["instance-aware disambiguation", "iad: different objects of an image choose different proposals (equations 8 and 9)."],
  anchor: ["anchor", "anchor: the released code's loss on the maps of other texts."], fg: ["foreground", "fg: the released code's score of the foreground by CLIP."],
  cbs: ["classification by CLIP", "cbs: the released code's calibration by CLIP."],
  opp: ["direction contrast", "opp: at its peak, a text responds more than the same text with the direction turned around."],
  ins: ["inside the proposals", "ins: the highest response lies inside a proposal."],
  miou: ["mIoU", "Mean IoU of the thresholded maps, in percent."], oiou: ["oIoU", "Sum of intersections over sum of unions, in percent."],
  pointm: ["PointM", "Share of peaks inside the true mask, in percent."], hit: ["Hit", "Share of peaks inside the true box, in percent."],
  box_accuracy: ["box accuracy", "Share of predicted boxes with IoU above 0.5, in percent."], empty: ["empty maps", "Number of maps without a positive response."],
};

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const short = (value) => value === null || value === undefined ? "none" : String(+value.toPrecision(4));

// About four round numbers between low and high; on a log scale powers of ten, or 1, 2, 5 of few decades.
function ticks(low, high, log) {
  if (low === high) return [low];
  if (log) {
    const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high)), every = Math.max(1, Math.ceil((to - from) / 4)), steps = to - from > 2 ? [1] : [1, 2, 5];
    const all = [];
    for (let power = from; power <= to; power += every) for (const digit of steps) all.push(digit * 10 ** power);
    const inside = all.filter((value) => value >= low * 0.999 && value <= high * 1.001);
    return inside.length > 2 ? inside : ticks(low, high, false);
  }
  const raw = (high - low) / 4, unit = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].find((digit) => digit * unit >= raw) * unit;
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-6; at++) found.push(at * step);
  return found;
}

// One column of the logs, with a line per run; hovering or the arrow keys show the values at a step.
function curve(kind, name, logs, letters) {
  const lines = logs.map((log) => log && log.columns[name] ? log.step.map((step, at) => [step, log.columns[name][at]]).filter(([, v]) => v !== null) : []);
  const all = lines.flat(), last = Math.max(...all.map(([step]) => step)), first = Math.min(...all.map(([step]) => step));
  const low = Math.min(...all.map(([, v]) => v)), high = Math.max(...all.map(([, v]) => v)), [long, meaning] = NAMES[name] || [name, ""];
  const who = (run) => letters.length > 1 ? `${letters[run]} ` : "";
  const reading = make("p", {className: "reading"}), plot = make("div", {className: "plot"}), note = make("span", {className: "soft"});
  const x = (step) => last === first ? 50 : 100 * (step - first) / (last - first);
  const steps = [...new Set(all.map(([step]) => step))].sort((a, b) => a - b);
  const ends = lines.map((line, run) => line.length ? `${who(run)}${short(line[line.length - 1][1])}` : null).filter(Boolean);
  reading.textContent = `last: ${ends.join(", ")}`;

  const show = (wanted) => {
    const log = wanted && low > 0 && high > low, up = log ? Math.log10 : (value) => value;
    const y = (value) => high === low ? 50 : 95 - 90 * (up(value) - up(low)) / (up(high) - up(low));
    note.textContent = log ? ", log scale" : wanted ? ", linear: not all values are positive" : "";
    const cursor = draw("line", {y1: 0, y2: 100, visibility: "hidden"});
    const values = ticks(low, high, log), places = ticks(first, last, false);
    const chart = draw("svg", {class: "curve", viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", tabindex: "0",
      "aria-label": `${long} by step, from ${short(low)} to ${short(high)}; ${reading.textContent}`},
    ...values.map((value) => draw("line", {class: "grid", x1: 0, x2: 100, y1: y(value), y2: y(value)})), cursor);
    lines.forEach((line, run) => {
      if (!line.length) return;
      const points = line.length === 1 ? [line[0], line[0]] : line;  // a line from a point to itself is a dot
      chart.append(draw("polyline", {class: `run${run}${line.length === 1 ? " dot" : ""}`, points: points.map(([step, v]) => `${x(step).toFixed(2)},${y(v).toFixed(2)}`).join(" ")}));
    });
    plot.replaceChildren(chart, ...values.map((value) => make("span", {className: "ytick", style: `top:${y(value)}%`}, short(value))),
      ...places.map((step) => make("span", {className: "xtick", style: `left:${x(step)}%`}, count.format(step))));
    readable(chart, cursor);
  };

  const readable = (chart, cursor) => {
    let at = steps.length - 1;
    const read = (to, aloud) => {
      at = Math.min(Math.max(to, 0), steps.length - 1);
      cursor.setAttribute("visibility", "visible");
      cursor.setAttribute("x1", x(steps[at]));
      cursor.setAttribute("x2", x(steps[at]));
      const values = lines.map((line, run) => {
        const near = line.reduce((best, point) => best === null || Math.abs(point[0] - steps[at]) < Math.abs(best[0] - steps[at]) ? point : best, null);
        return near && `${who(run)}${short(near[1])}`;
      });
      reading.textContent = `step ${count.format(steps[at])}: ${values.filter(Boolean).join(", ")}`;
      if (aloud) announce(`${long}, ${reading.textContent}`);
    };
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect(), step = first + (event.clientX - box.left) / box.width * (last - first);
      read(steps.reduce((best, one, number) => Math.abs(one - step) < Math.abs(steps[best] - step) ? number : best, 0));
    });
    chart.addEventListener("keydown", (event) => {
      const by = {ArrowRight: 1, ArrowLeft: -1, PageDown: 20, PageUp: -20, Home: -1e9, End: 1e9}[event.key];
      if (by) { event.preventDefault(); read(at + by, true); }
    });
  };
  show(false);
  const heading = meaning ? term(make("bdi", {}, long), meaning) : make("bdi", {}, long);
  const card = make("div", {className: "card"}, make("h3", {}, heading), make("p", {className: "soft"}, `${kind} by step`, note), plot, reading);
  return {card, show};
}

// Curves that every run has; with two runs, the names of the others are listed.
function curves(runs) {
  const shown = [], alone = [];
  for (const kind of ["validation", "losses"]) {
    const logs = runs.map((run) => run[kind]), has = (log, name) => log && log.columns[name];
    for (const name of new Set(logs.flatMap((log) => log ? Object.keys(log.columns) : []))) {
      const missing = logs.findIndex((log) => !has(log, name));
      if (missing < 0) shown.push(curve(kind === "losses" ? "training" : kind, name, logs, runs.length > 1 ? LETTERS : [""]));
      else alone.push([1 - missing, kind === "losses" ? "training" : kind, name, logs]);
    }
  }
  if (shown.length) {
    const log = make("button", {type: "button", onclick: () => {
      const on = log.getAttribute("aria-pressed") !== "true";
      log.setAttribute("aria-pressed", String(on));
      for (const {show} of shown) show(on);
      announce(on ? "log scale" : "linear scale");
    }}, "log scale");
    log.setAttribute("aria-pressed", "false");
    document.getElementById("scale").append(make("div", {className: "switches"}, log));
  }
  const notes = LETTERS.map((letter, run) => [letter, alone.filter(([whose]) => whose === run)]).filter(([, some]) => some.length)
    .map(([letter, some]) => make("p", {className: "soft span"}, `Only ${letter} has: ${some.map(([, kind, name]) => `${(NAMES[name] || [name])[0]} (${kind})`).join(", ")}.`));
  return [...shown.map(({card}) => card), ...notes];
}
