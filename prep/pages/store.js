// The report on a store. Cards are created when they are scrolled into view.
const ROWS_SHOWN = 8, SCORES_SHOWN = 3;

function size(bytes) {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB`
    : `${(bytes / 1e9).toFixed(1)} GB`;
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

function runs(stages) {
  const number = (value) => typeof value === "number" ? count.format(Math.round(value * 10) / 10) : String(value ?? "");
  return stages.map((stage) => make("details", {className: "card", style: "margin-bottom:.7rem"},
    make("summary", {}, make("b", {}, stage.stage),
      ` ${count.format(stage.rows)} rows, ${size(stage.bytes)} in ${count.format(stage.shards)} shards, created ${stage.created}`),
    tableOf([], [
      ...stage.settings.map(([name, value]) => [name, make("code", {}, value)]),
      ["versions", Object.entries(stage.versions).map((pair) => pair.join(" ")).join(", ")],
      ...Object.entries(stage.inputs).map(([name, sum]) => [name, make("code", {}, sum)]),
    ]),
    tableOf(["run", "rows", "failed", "reused", "seconds", "rows/s", "workers"], stage.runs.map((run) => [run.at, run.rows,
      run.failed, run.reused, run.seconds, run.rate, run.workers].map(number)))));
}

// ---------------------------------------------------------------- gallery
function line(content, at, picture, drawn) {
  const {gallery} = content, value = (name) => { const code = gallery[name].codes[at]; return code < 0 ? null : gallery[name].values[code]; };
  const [ref, sent] = gallery.ids[at], scores = content.scores[at], score = content.evaluation[at];
  const tags = [value("dataset"), value("split"), value("source"), ref === null ? null : `ref ${ref}`, sent === null ? null : `sentence ${sent}`];
  const best = drawn && scores ? scores.map((_, mask) => mask).sort((a, b) => scores[b] - scores[a]).slice(0, SCORES_SHOWN) : [];
  const buttons = best.map((mask, rank) => make("button", {type: "button", onclick: () => drawn.show(mask)},
    `${rank ? "" : "best score "}${scores[mask].toFixed(3)}`));
  const figures = evidence(picture, drawn,
    {score, maps: content.maps[at], truth: content.truth[at], threshold: content.threshold});
  return make("div", {className: "row"},
    make("div", {className: "text", dir: "auto"}, gallery.text[at] || "(empty)", score ? verdict(score) : null),
    make("div", {}, ...gallery.phrases[at].map((phrase) => make("span", {className: "chip", dir: "auto"}, phrase))),
    value("error") ? make("div", {className: "bad"}, value("error")) : null,
    make("div", {className: "tag"}, [...tags.filter((tag) => tag), ...gallery.violations.lists[at].map(
      (code) => `violates ${gallery.violations.values[code]}`)].join(" · "), " ", ...buttons),
    figures.length ? make("div", {className: "maps"}, ...figures) : null);
}

function card(content, image, rows) {
  const picture = image < 0 ? null : content.pictures[image];
  const name = image < 0 ? "no image" : content.gallery.image.values[image];
  const drawn = picture ? view(picture, name) : null;
  const words = make("div", {className: "words"}, drawn ? null : make("p", {className: "name"}, name));
  const add = (some) => words.append(...some.map((at) => line(content, at, picture, drawn)));
  add(rows.slice(0, ROWS_SHOWN));
  if (rows.length > ROWS_SHOWN) {
    const more = make("button", {type: "button", onclick: () => { more.remove(); add(rows.slice(ROWS_SHOWN)); }},
      `${rows.length - ROWS_SHOWN} more`);
    words.append(more);
  }
  return make("article", {className: "card entry"}, drawn && drawn.element, words);
}

function gallery(content) {
  const data = content.gallery, total = data.text.length;
  const lower = data.text.map((text, at) => `${text}\n${data.phrases[at].join("\n")}`.toLowerCase());
  const fill = endless(document.getElementById("gallery"), document.getElementById("more"));
  const columns = ["dataset", "split", "source", "status"];
  const list = (name, ...more) => [name, name === "violations" ? "violation" : name,
    [["", "all"], ...data[name].values.map((value, code) => [String(code), value]), ...more]];

  function violates(at, wanted) {
    const codes = data.violations.lists[at];
    return wanted === "any" ? codes.length > 0 : wanted === "none" ? codes.length === 0 : codes.includes(Number(wanted));
  }

  function apply(words, chosen) {
    const codes = columns.filter((name) => chosen[name] !== "").map((name) => [data[name].codes, Number(chosen[name])]);
    const byImage = new Map();
    let matches = 0;
    for (let at = 0; at < total; at++) {
      if (!codes.every(([column, code]) => column[at] === code) || !words.every((word) => lower[at].includes(word))) continue;
      if (chosen.violations !== "" && !violates(at, chosen.violations)) continue;
      matches++;
      const image = data.image.codes[at], key = image < 0 ? `row ${at}` : image, own = byImage.get(key);
      if (own) own[1].push(at); else byImage.set(key, [image, [at]]);
    }
    const groups = [...byImage.values()], pictured = ([image]) => Boolean(content.pictures[image]);
    // Entries with a picture first, otherwise in the store's order.
    fill([...groups.filter(pictured), ...groups.filter((group) => !pictured(group))].map(([image, rows]) => () => card(content, image, rows)));
    return `${count.format(matches)} of ${count.format(total)} expressions, ${count.format(groups.length)} entries`;
  }

  filters(document.getElementById("filters"), [list("dataset"), list("split"), list("source"),
    list("violations", ["any", "any"], ["none", "none"]), list("status")], apply)();
}

start((content) => {
  const {phrases, proposals} = content, rows = phrases.splits.reduce((sum, [, n]) => sum + n, 0);
  document.getElementById("lead").textContent = `${content.store}: ${count.format(rows)} expressions, ${
    count.format(proposals.status.reduce((sum, [, n]) => sum + n, 0))} images. The gallery holds ${
    count.format(content.gallery.text.length)} expressions and ${count.format(Object.keys(content.pictures).length)} pictures.`;
  document.getElementById("runs").append(...runs(content.stages));
  document.getElementById("phrases").append(bars("Splits", phrases.splits), bars("Sources of the phrases", phrases.sources,
    "Level of the fallback chain that was used"), bars("Phrases per expression", phrases.lengths),
  ...[["Violations", phrases.violations, "Checks that the kept phrases fail"], ["Repairs", phrases.repairs, "Repairs of answers with the source repaired"], ["Rejected", phrases.rejected, "Rejected answers, by level and check"],
    ["Failures", phrases.failures, "Rows without phrases", "failed"]].filter(([, pairs]) => pairs.length).map((args) => bars(...args)));
  document.getElementById("proposals").append(...[bars("Images", proposals.status),
    histogram("Masks per image", proposals.masks, "Images by number of masks", (value) => String(Math.round(value))),
    histogram("Area", proposals.area, "Masks by share of the image area", (value) => `${+(100 * 10 ** value).toPrecision(2)}%`),
    histogram("Predicted IoU", proposals.predicted_iou, "Masks by the generator's estimate"),
    histogram("Stability", proposals.stability_score, "Masks by stability score"),
    proposals.failures.length ? bars("Failures", proposals.failures, "Images without masks", "failed") : null].filter(Boolean));
  gallery(content);
});
