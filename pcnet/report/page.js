// The report page of one or two training runs.
const SVG = "http://www.w3.org/2000/svg", LETTERS = ["A", "B"];
const FIGURES = [["n", "n", 0], ["miou", "mIoU", 2], ["oiou", "oIoU", 2], ["pointm", "PointM", 2], ["hit", "Hit", 2],
  ["box_accuracy", "box acc.", 2], ["proposal_miou", "refined mIoU", 2], ["oracle_miou", "oracle mIoU", 2]];

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const short = (value) => value === null || value === undefined ? "none" : String(+value.toPrecision(4));

// One column of the logs, with a line per run; hovering or the arrow keys show the values at a step.
function curve(name, logs) {
  const lines = logs.map((log) => log && log.columns[name] ? log.step.map((step, at) => [step, log.columns[name][at]]).filter(([, v]) => v !== null) : []);
  const all = lines.flat(), last = Math.max(...all.map(([step]) => step)), first = Math.min(...all.map(([step]) => step));
  const low = Math.min(...all.map(([, v]) => v)), high = Math.max(...all.map(([, v]) => v));
  const x = (step) => last === first ? 50 : 100 * (step - first) / (last - first), y = (value) => high === low ? 50 : 96 - 92 * (value - low) / (high - low);
  const ends = lines.map((line, run) => line.length ? `${logs.length > 1 ? `${LETTERS[run]} ` : ""}${short(line[line.length - 1][1])}` : null).filter(Boolean);
  const cursor = draw("line", {y1: 0, y2: 100, visibility: "hidden"}), reading = make("p", {className: "reading"}, `last: ${ends.join(", ")}`);
  const plot = draw("svg", {class: "curve", viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", tabindex: "0",
    "aria-label": `${name} by step, from ${short(low)} to ${short(high)}; ${reading.textContent}`}, cursor);
  lines.forEach((line, run) => {
    const points = line.length === 1 ? [line[0], line[0]] : line;  // a line from a point to itself is a dot
    plot.append(draw("polyline", {class: `run${run}${line.length === 1 ? " dot" : ""}`, points: points.map(([step, v]) => `${x(step).toFixed(2)},${y(v).toFixed(2)}`).join(" ")}));
  });
  const steps = [...new Set(all.map(([step]) => step))].sort((a, b) => a - b);
  let at = steps.length - 1;
  const read = (to) => {
    at = Math.min(Math.max(to, 0), steps.length - 1);
    cursor.setAttribute("visibility", "visible");
    cursor.setAttribute("x1", x(steps[at]));
    cursor.setAttribute("x2", x(steps[at]));
    const values = lines.map((line, run) => {
      const near = line.reduce((best, point) => best === null || Math.abs(point[0] - steps[at]) < Math.abs(best[0] - steps[at]) ? point : best, null);
      return near && `${logs.length > 1 ? `${LETTERS[run]} ` : ""}${short(near[1])}`;
    });
    reading.textContent = `step ${count.format(steps[at])}: ${values.filter(Boolean).join(", ")}`;
  };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect(), step = first + (event.clientX - box.left) / box.width * (last - first);
    read(steps.reduce((best, one, number) => Math.abs(one - step) < Math.abs(steps[best] - step) ? number : best, 0));
  });
  plot.addEventListener("keydown", (event) => {
    const by = {ArrowRight: 1, ArrowLeft: -1, PageDown: 20, PageUp: -20, Home: -1e9, End: 1e9}[event.key];
    if (by) { event.preventDefault(); read(at + by); }
  });
  return make("div", {className: "card"}, make("h3", {}, make("bdi", {}, name)), plot,
    make("div", {className: "axis"}, make("span", {}, `${short(low)} to ${short(high)}`), make("span", {}, `step ${count.format(last)}`)), reading);
}

function curves(runs) {
  return ["validation", "losses"].flatMap((kind) => {
    const logs = runs.map((run) => run[kind]), names = [...new Set(logs.flatMap((log) => log ? Object.keys(log.columns) : []))];
    return names.map((name) => curve(name, logs)).map((card) => {
      card.prepend(make("p", {className: "tag"}, kind === "validation" ? "validation" : "training"));
      return card;
    });
  });
}

function figures(label, runs) {
  const own = runs.map((run) => run.evaluations[label]).map((one) => one || null);
  const kinds = [...new Set(own.flatMap((one) => one ? Object.keys(one.groups || {}) : []))].sort();
  const shown = FIGURES.filter(([key]) => own.some((one) => one && one[key] !== null && one[key] !== undefined));
  const rows = [["", own], ...kinds.map((kind) => [kind, own.map((one) => one && (one.groups || {})[kind] || null)])].flatMap(([kind, told]) =>
    told.map((one, run) => one && make("tr", {className: kind ? "kind" : ""},
      make("td", {}, kind || "all", runs.length > 1 ? make("span", {className: "tag"}, ` ${LETTERS[run]}`) : null),
      ...shown.map(([key, , digits]) => {
        const value = one[key], other = told[1 - run], better = digits && told.length === 2 && other && value > other[key];
        return make("td", {className: `number${better ? " better" : ""}`}, value === null || value === undefined ? "" : digits ? value.toFixed(digits) : count.format(value));
      }))).filter(Boolean));
  const notes = own.flatMap((one, run) => one ? [[one.no_target && one.no_target.n ? `${count.format(one.no_target.n)} without a target, ${count.format(one.no_target.silent)} of them predicted empty` : null],
    ...Object.entries(one.skipped || {}).map(([reason, n]) => [`skipped: ${count.format(n)} (${reason})`])].flat().filter(Boolean)
    .map((note) => make("p", {className: "soft"}, runs.length > 1 ? `${LETTERS[run]}: ${note}` : note)) : []);
  return make("div", {className: "card scroll", style: "margin-bottom:1rem"}, make("h3", {}, make("bdi", {}, label)), make("table", {},
    make("thead", {}, make("tr", {}, make("th", {scope: "col"}, "%"), ...shown.map(([, name]) => make("th", {scope: "col", className: "number"}, name)))),
    make("tbody", {}, ...rows)), ...notes);
}

function agreement(found) {
  if (!found.length) return [];
  const rows = found.map(({label, kind, counts, gain, p}) => [kind ? make("span", {className: "soft"}, kind) : label, ...counts.map((n) => count.format(n)),
    `${gain >= 0 ? "+" : ""}${gain.toFixed(2)}`, p < 0.001 ? "< 0.001" : p.toFixed(3)]);
  return [make("h2", {}, "Both runs on the same expressions"), make("div", {className: "card"},
    tableOf(["PointM hits", "both", "only A", "only B", "neither", "IoU of B − A, points", "p"], rows),
    make("p", {className: "soft"}, "p: exact two-sided sign test on the expressions that only one run hits; it does not account for variation across seeds."))];
}

function settings(runs) {
  const maps = runs.map((run) => new Map(run.settings)), names = [...new Set(maps.flatMap((map) => [...map.keys()]))];
  const row = (name) => [name, ...maps.map((map) => make("code", {}, map.get(name) ?? "none"))];
  const differ = names.filter((name) => new Set(maps.map((map) => map.get(name))).size > 1), same = names.filter((name) => !differ.includes(name));
  const head = ["setting", ...(runs.length > 1 ? LETTERS : ["value"])];
  return [differ.length ? make("div", {className: "card", style: "margin-bottom:.7rem"}, make("h3", {}, "Differences"), tableOf(head, differ.map(row))) : null,
    same.length ? make("details", {className: "card"}, make("summary", {}, `${same.length} ${runs.length > 1 ? "identical " : ""}settings`),
      tableOf(head, same.map(row))) : make("p", {className: "soft"}, "No settings.json: the run was made by an earlier version, or was only evaluated.")].filter(Boolean);
}

function card(content, at) {
  const {samples, pictures, maps, truth, runs} = content, image = samples.image.codes[at], picture = pictures[image];
  const name = samples.image.values[image], drawn = picture ? view(picture, name) : null, pair = runs.length > 1;
  const actual = drawn && truth[at] ? evidence(picture, drawn, {truth: truth[at]}) : [];
  const strip = (shown) => shown.length ? make("div", {className: "maps"}, ...shown) : null;
  const strips = samples.scores[at].map((score, run) => {
    const own = maps[run][at], shown = score && (drawn || own) ? evidence(picture, drawn, {score, maps: own && own.levels, threshold: own && own.threshold,
      who: pair ? LETTERS[run] : ""}) : [];
    return strip(pair ? shown : [...shown, ...actual]);
  });
  const kinds = samples.kinds.lists[at].map((code) => samples.kinds.values[code]);
  return make("article", {className: "card entry"}, drawn && drawn.element, make("div", {className: "words"},
    make("div", {className: "text", dir: "auto"}, samples.text[at] || "(empty)"),
    make("div", {}, ...samples.scores[at].map((score, run) => score && verdict(score, pair ? LETTERS[run] : ""))),
    make("div", {className: "tag"}, [samples.evaluation.values[samples.evaluation.codes[at]], ...kinds, drawn ? null : name].filter(Boolean).join(" · ")),
    ...strips, pair ? strip(actual) : null));
}

const ORDERS = {
  worst: (run) => (scores) => scores[run] && scores[run][1],
  best: (run) => (scores) => scores[run] && -scores[run][1],
};

function cases(content) {
  const {samples, runs, pictures} = content, total = samples.text.length, pair = runs.length > 1;
  const lower = samples.text.map((text) => text.toLowerCase());
  const fill = endless(document.getElementById("gallery"), document.getElementById("more"));
  const orders = [...runs.flatMap((_, run) => [[`worst${run}`, `worst${pair ? ` of ${LETTERS[run]}` : ""} first`], [`best${run}`, `best${pair ? ` of ${LETTERS[run]}` : ""} first`]]),
    ...(pair ? [["gain", "B gains most"], ["loss", "B loses most"]] : [])];
  const hits = pair ? [["", "all"], ["11", "both hit"], ["10", "only A hits"], ["01", "only B hits"], ["00", "neither hits"]] : [["", "all"], ["1", "hits"], ["0", "misses"]];
  const key = (name) => name === "gain" || name === "loss"
    ? ([a, b]) => a && b && (name === "gain" ? a[1] - b[1] : b[1] - a[1]) : ORDERS[name.slice(0, -1)](Number(name.slice(-1)));

  function apply(words, chosen) {
    const rank = key(chosen.order), found = [];
    for (let at = 0; at < total; at++) {
      const scores = samples.scores[at], value = rank(scores);
      if (value === null || value === undefined || !words.every((word) => lower[at].includes(word))) continue;
      if (chosen.evaluation !== "" && samples.evaluation.codes[at] !== Number(chosen.evaluation)) continue;
      if (chosen.kind !== "" && !samples.kinds.lists[at].includes(Number(chosen.kind))) continue;
      if (chosen.hit !== "" && scores.map((score) => score ? Number(score[0]) : "").join("") !== chosen.hit) continue;
      if (chosen.pictures !== "" && !pictures[samples.image.codes[at]]) continue;
      found.push([value, at]);
    }
    found.sort(([a, i], [b, j]) => a - b || i - j);
    fill(found.map(([, at]) => () => card(content, at)));
    return `${count.format(found.length)} of ${count.format(total)} expressions`;
  }

  const named = (values) => [["", "all"], ...values.map((value, code) => [String(code), value])];
  filters(document.getElementById("filters"), [["order", "order", orders], ["evaluation", "evaluation", named(samples.evaluation.values)],
    ["kind", "kind", named(samples.kinds.values)], ["hit", "PointM hit", hits],
    ["pictures", "pictures", [["", "all"], ["with", "with a picture"]]]], apply)();
}

start((content) => {
  const {runs, labels} = content, put = (id, parts, none) => document.getElementById(id).append(...(parts.length ? parts : none ? [make("p", {className: "soft"}, none)] : []));
  document.getElementById("lead").textContent = `${runs.map((run, at) => `${runs.length > 1 ? `${LETTERS[at]}: ` : ""}${run.name}${
    run.steps ? `, ${count.format(run.steps)} steps in ${count.format(Math.round(run.seconds))} s` : ""}`).join("; ")}. ${
    count.format(labels.length)} evaluation${labels.length === 1 ? "" : "s"} of ${count.format(content.cases)} expressions; ${count.format(content.samples.text.length)} on this page.`;
  if (runs.length > 1) put("key", runs.flatMap((run, at) => [make("span", {}, make("i", {className: `run${at}`}), `${LETTERS[at]} `, make("bdi", {}, run.name), " ")]));
  put("curves", curves(runs), "No losses.csv.");
  put("figures", labels.map((label) => figures(label, runs)), "No evaluation: run `pcnet eval --out` into a folder of the run.");
  put("agreement", agreement(content.agreements));
  put("settings", settings(runs));
  cases(content);
});
