// The report page of one or two training runs.
const FIGURES = [["n", "n", 0, "Number of expressions with a target."], ["miou", "mIoU", 2, "Mean IoU of the thresholded response maps with the true masks."],
  ["oiou", "oIoU", 2, "Sum of all intersections over the sum of all unions: large objects count more."],
  ["pointm", "PointM", 2, "Share of expressions whose highest response lies inside the true mask."],
  ["hit", "Hit", 2, "Share of expressions whose highest response lies inside the box of the true mask."],
  ["box_accuracy", "box acc.", 2, "Share of predicted masks whose box has IoU above 0.5 with the true box."],
  ["proposal_miou", "refined mIoU", 2, "Mean IoU of the stored proposal chosen by the peak of the map, in place of the map's mask."],
  ["oracle_miou", "oracle mIoU", 2, "Mean IoU of the best proposal of each image: no choice among the proposals can exceed it."]];

// One evaluation of all runs that have it. Two runs are compared in the columns and groups that both have.
function figures(label, runs) {
  const own = runs.map((run) => run.evaluations[label] || null), told = own.filter(Boolean), letters = LETTERS.filter((_, run) => own[run]);
  const groups = told.map((one) => Object.keys(one.groups || {})), kinds = groups[0].filter((kind) => groups.every((some) => some.includes(kind))).sort();
  const has = (one, key) => one[key] !== null && one[key] !== undefined;
  const shown = FIGURES.filter(([key]) => told.every((one) => has(one, key)));
  const rows = [["", told], ...kinds.map((kind) => [kind, told.map((one) => one.groups[kind])])].flatMap(([kind, some]) =>
    some.map((one, run) => make("tr", {className: kind ? "kind" : ""},
      make("td", {}, make("bdi", {}, kind || "all"), runs.length > 1 ? make("span", {className: "tag"}, ` ${letters[run]}`) : null),
      ...shown.map(([key, , digits]) => {
        const value = one[key], other = some[1 - run], better = digits && other && value > other[key];
        return make("td", {className: `number${better ? " better" : ""}`}, has(one, key) ? digits ? value.toFixed(digits) : count.format(value) : "");
      }))));
  const alone = told.length > 1 ? told.flatMap((one, run) => {
    const names = FIGURES.filter(([key]) => has(one, key) && !has(told[1 - run], key)).map(([, name]) => name);
    return names.length ? [`Only ${letters[run]} has: ${names.join(", ")}.`] : [];
  }) : [];
  const notes = [...alone, ...told.flatMap((one, run) => [one.no_target && one.no_target.n ? `${count.format(one.no_target.n)} without a target, ${count.format(one.no_target.silent)} of them predicted empty` : null,
    ...Object.entries(one.skipped || {}).map(([reason, n]) => `skipped: ${count.format(n)} (${reason})`)].filter(Boolean)
    .map((note) => runs.length > 1 ? `${letters[run]}: ${note}` : note))];
  return make("div", {className: "card", style: "margin-bottom:1rem"}, make("h3", {}, make("bdi", {}, label)), scrolling(make("table", {className: "figures"},
    make("thead", {}, make("tr", {}, make("th", {scope: "col"}, "%"), ...shown.map(([, name, , meaning]) => make("th", {scope: "col", className: "number"}, term(name, meaning))))),
    make("tbody", {}, ...rows))), ...notes.map((note) => make("p", {className: "soft"}, note)));
}

function metrics(labels, runs) {
  const both = labels.filter((label) => runs.every((run) => run.evaluations[label])), rest = labels.filter((label) => !both.includes(label));
  const parts = both.map((label) => figures(label, runs));
  runs.forEach((run, at) => {
    const own = rest.filter((label) => run.evaluations[label]);
    if (own.length) parts.push(make("details", {className: "card", style: "margin-bottom:1rem"}, make("summary", {}, `Only ${LETTERS[at]} has: ${own.join(", ")}`), ...own.map((label) => figures(label, runs))));
    if (!Object.keys(run.evaluations).length) {
      parts.push(make("p", {className: "soft"}, `${runs.length > 1 ? `${LETTERS[at]}: n` : "N"}o evaluation was found in or beside the run. Make one with: `,
        make("code", {}, run.evaluate || "pcnet eval --checkpoint FILE --out DIR")));
    }
  });
  return parts;
}

function agreement(found) {
  if (!found.length) return [];
  const rows = found.map(({label, kind, counts, gain, p}) => [make("bdi", {className: kind ? "soft" : ""}, kind || label), ...counts.map((n) => count.format(n)),
    `${gain >= 0 ? "+" : ""}${gain.toFixed(2)}`, p < 0.001 ? "< 0.001" : p.toFixed(3)]);
  return [make("h2", {}, "Both runs on the same expressions"), make("div", {className: "card"},
    tableOf([term("PointM hits", "Expressions whose highest response lies inside the true mask."), "both", "only A", "only B", "neither",
      term("IoU of B − A", "Mean difference of IoU, in percentage points."),
      term("p", "Exact two-sided sign test on the expressions that only one run hits; it does not account for variation across seeds.")], rows, [1, 2, 3, 4, 5, 6]))];
}

function settings(runs) {
  const maps = runs.map((run) => new Map(run.settings)), names = [...new Set(maps.flatMap((map) => [...map.keys()]))];
  const row = (name) => [name, ...maps.map((map) => make("code", {}, map.get(name) ?? "none"))];
  const differ = names.filter((name) => new Set(maps.map((map) => map.get(name))).size > 1), same = names.filter((name) => !differ.includes(name));
  const head = ["setting", ...(runs.length > 1 ? LETTERS : ["value"])];
  return [differ.length ? make("div", {className: "card", style: "margin-bottom:.7rem"}, make("h3", {}, "Differences"), tableOf(head, differ.map(row))) : null,
    same.length ? make("details", {className: "card"}, make("summary", {}, `${same.length} ${runs.length > 1 ? "identical " : ""}settings`),
      tableOf(head, same.map(row))) : differ.length ? null : make("p", {className: "soft"}, "No settings.json: the run was made by an earlier version, or was only evaluated.")].filter(Boolean);
}

// ---------------------------------------------------------------- cases
function row(content, at, picture) {
  const {samples, maps, truth, runs} = content, pair = runs.length > 1, scores = samples.scores[at];
  const kinds = samples.kinds.lists[at].map((code) => samples.kinds.values[code]);
  const shown = picture ? scores.map((score, run) => {
    const own = maps[run][at];
    return evidence(picture, {score, maps: own && own.levels, threshold: own && own.threshold, who: pair ? LETTERS[run] : "", run});
  }) : [];
  const facts = {outlines: shown.flatMap((one) => one.outlines), maps: shown.flatMap((one) => one.maps)};
  if (truth[at]) facts.outlines.unshift({mask: truth[at], colour: TRUTH});
  const measured = scores.flatMap((score, run) => score ? [["margin", score[5]], ["entropy", score[6]]].filter(([, value]) => value !== null)
    .map(([name, value]) => `${pair ? `${LETTERS[run]} ` : ""}${name} ${value.toFixed(3)}`) : []);
  return {text: samples.text[at], phrases: [], buttons: [], error: null, evidence: picture ? facts : null,
    badges: scores.map((score, run) => score && verdict(score, pair ? LETTERS[run] : "")).filter(Boolean),
    tags: [samples.evaluation.values[samples.evaluation.codes[at]], ...kinds, ...measured]};
}

function cases(content) {
  const {samples, runs, pictures} = content, pair = runs.length > 1;
  const by = (run, place, sign) => (at) => { const score = samples.scores[at][run]; return score && score[place] !== null ? sign * score[place] : null; };
  const has = (place) => samples.scores.some((scores) => scores.some((score) => score && score[place] !== null));
  const difference = (sign) => (at) => { const [a, b] = samples.scores[at]; return a && b ? sign * (b[1] - a[1]) : null; };
  const orders = runs.flatMap((_, run) => [[1, "IoU"], [5, "margin"], [6, "entropy"]].filter(([place]) => place === 1 || has(place)).flatMap(([place, name]) => {
    const whose = pair ? `${name} of ${LETTERS[run]}` : name;
    return [[`${name}${run} up`, `${whose}, lowest first`, by(run, place, 1)], [`${name}${run} down`, `${whose}, highest first`, by(run, place, -1)]];
  }));
  if (pair) orders.push(["gain", "B gains most", difference(-1)], ["loss", "B loses most", difference(1)]);
  const hits = pair ? [["", "all"], ["11", "both hit"], ["10", "only A hits"], ["01", "only B hits"], ["00", "neither hits"]] : [["", "all"], ["1", "hit"], ["0", "miss"]];
  gallery({form: document.getElementById("filters"), host: document.getElementById("gallery"), end: document.getElementById("more"), total: samples.text.length, orders,
    lower: samples.text.map((text, at) => `${text}\n${samples.scores[at].flatMap((score) => score && score[7] || []).join("\n")}`.toLowerCase()),
    lists: [["hit", "result", hits, (at, value) => samples.scores[at].map((score) => score ? Number(score[0]) : "").join("") === value],
      ["evaluation", "evaluation", named(samples.evaluation.values), (at, value) => samples.evaluation.codes[at] === Number(value)],
      ["kind", "kind", named(samples.kinds.values), (at, value) => samples.kinds.lists[at].includes(Number(value))],
      ["pictures", "pictures", [["", "all"], ["with", "with a picture"], ["without", "without"]], (at, value) => Boolean(pictures[samples.image.codes[at]]) === (value === "with")]],
    image: (at) => samples.image.codes[at], pictured: (image) => Boolean(pictures[image]),
    card: (image, rows) => imageCard(pictures[image] || null, samples.image.values[image], rows.map((at) => () => row(content, at, pictures[image] || null)))});
}

start((content) => {
  const {runs, labels} = content, put = (id, parts, none) => document.getElementById(id).append(...(parts.length ? parts : none ? [make("p", {className: "soft"}, none)] : []));
  document.getElementById("lead").textContent = `${runs.map((run, at) => `${runs.length > 1 ? `${LETTERS[at]}: ` : ""}${run.name}${
    run.steps ? `, ${count.format(run.steps)} steps in ${count.format(Math.round(run.seconds))} s` : ""}`).join("; ")}. ${
    count.format(labels.length)} evaluation${labels.length === 1 ? "" : "s"} of ${count.format(content.cases)} expressions; ${count.format(content.samples.text.length)} on this page.`;
  if (runs.length > 1) put("key", runs.flatMap((run, at) => [make("span", {}, make("i", {className: `run${at}`}), `${LETTERS[at]} `, make("bdi", {}, run.name), " ")]));
  put("curves", curves(runs), runs.some((run) => run.losses) ? "" : "No losses.csv.");
  put("figures", metrics(labels, runs));
  put("agreement", agreement(content.agreements));
  put("settings", settings(runs));
  document.getElementById("cases").hidden = !content.samples.text.length;
  if (!content.samples.text.length) return;
  legend(document.getElementById("filters"), runs.map((_, run) => runs.length > 1 ? `prediction of ${LETTERS[run]}` : "prediction"), Object.keys(content.truth).length);
  cases(content);
});
