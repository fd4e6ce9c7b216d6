// The report on a store. Cards are created when they are scrolled into view.
const SCORES_SHOWN = 3;

function size(bytes) {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}

function time(seconds) {
  return seconds < 60 ? `${+seconds.toFixed(1)} s` : seconds < 3600 ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`
    : `${Math.floor(seconds / 3600)} h ${Math.round(seconds % 3600 / 60)} min`;
}

function tables(stages, disk) {
  const total = Object.values(disk).reduce((sum, bytes) => sum + bytes, 0);
  const rate = (stage) => { const last = [...stage.runs].reverse().find((run) => run.rate); return last ? `${count.format(+last.rate.toPrecision(3))}/s` : ""; };
  return make("div", {className: "card", style: "margin-bottom:.7rem"}, tableOf(
    ["table", term("rows", "Expressions in phrases and scores, images in proposals."), term("disk", "The table's Parquet files."), "shards",
      term("time", "The sum of the wall time of all runs."), term("rate", "Rows per second of the last run that computed any."), "created"],
    stages.map((stage) => [stage.stage, count.format(stage.rows), size(stage.bytes), count.format(stage.shards),
      stage.seconds ? time(stage.seconds) : "", rate(stage), String(stage.created).replace("T", " ").slice(0, 16)]), [1, 2, 3, 4, 5]),
  make("p", {className: "soft"}, `The store takes ${size(total)} of disk: ${Object.entries(disk).map(([name, bytes]) => `${name} ${size(bytes)}`).join(", ")}.`));
}

function runs(stages) {
  const number = (value) => typeof value === "number" ? count.format(Math.round(value * 10) / 10) : String(value ?? "");
  return stages.map((stage) => make("details", {className: "card", style: "margin-bottom:.7rem"},
    make("summary", {}, make("b", {}, stage.stage), " settings, versions and runs"),
    tableOf([], [
      ...stage.settings.map(([name, value]) => [name, make("code", {}, value)]),
      ["versions", Object.entries(stage.versions).map((pair) => pair.join(" ")).join(", ")],
      ...Object.entries(stage.inputs).map(([name, sum]) => [name, make("code", {}, sum)]),
    ]),
    tableOf(["run", "rows", "failed", "reused", "seconds", "rows/s", "workers"], stage.runs.map((run) => [run.at, run.rows,
      run.failed, run.reused, run.seconds, run.rate, run.workers].map(number)), [1, 2, 3, 4, 5, 6])));
}

function violations({violations: pairs, examples}) {
  if (!pairs.length) return null;
  return make("div", {className: "card span"}, make("h3", {}, "Violations"), make("p", {className: "soft"}, "Checks that the kept phrases fail, with the first expressions"),
    tableOf(["check", "n", "examples"], pairs.map(([code, n]) => [make("bdi", {}, code), count.format(n), make("div", {}, ...examples[code].map(([text, phrases]) =>
      make("div", {className: "example"}, make("b", {dir: "auto", className: "text"}, text), ...phrases.map((phrase) => make("span", {className: "chip", dir: "auto"}, phrase)))))]), [1]));
}

// ---------------------------------------------------------------- gallery
function row(content, at, picture) {
  const {gallery} = content, value = (name) => { const code = gallery[name].codes[at]; return code < 0 ? null : gallery[name].values[code]; };
  const [ref, sent] = gallery.ids[at], scores = content.scores[at], score = content.evaluation[at], truth = content.truth[at];
  const best = picture && scores ? scores.map((_, mask) => mask).sort((a, b) => scores[b] - scores[a]).slice(0, SCORES_SHOWN) : [];
  const facts = picture && evidence(picture, {score, maps: content.maps[at], threshold: content.threshold});
  if (facts && truth !== undefined) facts.outlines.unshift({mask: truth, colour: TRUTH});
  const measured = score ? [score[5] === null ? null : `margin ${score[5].toFixed(3)}`, score[6] === null ? null : `entropy ${score[6].toFixed(3)}`] : [];
  return {text: gallery.text[at], badges: score ? [verdict(score)] : [], phrases: gallery.phrases[at], error: value("error"), evidence: facts,
    tags: [value("dataset"), value("split"), value("source"), ...(score ? score[8] : []), ref === null ? null : `ref ${ref}`, sent === null ? null : `sentence ${sent}`,
      ...measured, ...gallery.violations.lists[at].map((code) => `violates ${gallery.violations.values[code]}`)],
    buttons: best.map((mask, rank) => [`${rank ? "" : "best score "}${scores[mask].toFixed(3)}`, mask])};
}

function storeGallery(content) {
  const data = content.gallery, scores = content.evaluation, total = data.text.length;
  const kinds = [...new Set(Object.values(scores).flatMap((score) => score[8]))].sort();
  const coded = (name) => [name, name, named(data[name].values), (at, value) => data[name].codes[at] === Number(value)];
  const violates = (at, wanted) => {
    const codes = data.violations.lists[at];
    return wanted === "any" ? codes.length > 0 : wanted === "none" ? codes.length === 0 : codes.includes(Number(wanted));
  };
  const by = (place, sign) => (at) => { const value = scores[at] && scores[at][0] !== null ? scores[at][place] : null; return value === null || value === undefined ? null : sign * value; };
  const judged = Object.values(scores), has = (place) => judged.some((score) => score[place] !== null && score[place] !== undefined);
  // Evaluated expressions first, and those with a picture before the others.
  const usual = (at) => (scores[at] ? 0 : 2) + (content.pictures[data.image.codes[at]] ? 0 : 1);
  const orders = [["", judged.length ? "evaluated first" : "as stored", usual],
    ...[[1, "IoU", "lowest", "highest"], [5, "margin", "lowest", "highest"], [6, "entropy", "lowest", "highest"]].filter(([place]) => has(place))
      .flatMap(([place, name, low, high]) => [[`${name} up`, `${name}, ${low} first`, by(place, 1)], [`${name} down`, `${name}, ${high} first`, by(place, -1)]])];
  const results = judged.length ? [["hit", "result", [["", "all"], ["1", "hit"], ["0", "miss"], ["any", "evaluated"], ["none", "not evaluated"]], (at, value) =>
    value === "none" ? !scores[at] : Boolean(scores[at]) && (value === "any" || scores[at][0] === (value === "1"))]] : [];
  const form = document.getElementById("filters");
  gallery({form, host: document.getElementById("gallery"), end: document.getElementById("more"), total, orders,
    lower: data.text.map((text, at) => `${text}\n${data.phrases[at].join("\n")}`.toLowerCase()),
    lists: [...results, ["kind", "kind", [["", "all"], ...kinds.map((kind) => [kind, kind])], (at, value) => Boolean(scores[at]) && scores[at][8].includes(value)],
      coded("dataset"), coded("split"), coded("source"),
      ["violations", "violation", [...named(data.violations.values), ["any", "any"], ["none", "none"]], violates], coded("status")],
    image: (at) => data.image.codes[at], pictured: (image) => Boolean(content.pictures[image]),
    card: (image, rows) => imageCard(image < 0 ? null : content.pictures[image], image < 0 ? "no image" : data.image.values[image],
      rows.map((at) => () => row(content, at, image < 0 ? null : content.pictures[image])))});
}

start((content) => {
  const {phrases, proposals} = content, rows = phrases.splits.reduce((sum, [, n]) => sum + n, 0);
  const images = proposals.status.reduce((sum, [, n]) => sum + n, 0), photos = Object.values(content.pictures).filter((one) => one.thumbnail).length;
  document.getElementById("lead").textContent = `${content.store}: ${count.format(rows)} expressions, ${count.format(images)} images. The gallery holds ${
    count.format(content.gallery.text.length)} expressions and ${count.format(Object.keys(content.pictures).length)} pictures${photos ? "" : ", without photos (--data names the folder of the images)"}.`;
  document.getElementById("runs").append(tables(content.stages, content.disk), ...runs(content.stages));
  const put = (id, cards) => document.getElementById(id).append(...cards.filter(Boolean));
  const some = (title, pairs, ...more) => pairs.length ? bars(title, pairs, ...more) : null;
  put("phrases", [some("Splits", phrases.splits), some("Sources", phrases.sources, "Level of the fallback chain that was used"),
    numbers("Phrases", phrases.lengths, "Expressions by number of phrases"), numbers("Words", phrases.words, "Expressions by number of words"),
    numbers("Words of a phrase", phrases.phrase_words, "Phrases by number of words"),
    some("Repairs", phrases.repairs, "Repairs of answers with the source repaired"), some("Rejected", phrases.rejected, "Rejected answers, by level and check"),
    some("Failures", phrases.failures, "Rows without phrases", "failed"), violations(phrases)]);
  const percent = (value) => `${+(100 * value).toFixed(1)}%`, share = (value) => `${+(100 * 10 ** value).toPrecision(2)}%`;
  put("proposals", [some("Images", proposals.status), histogram("Masks", proposals.masks, "Images by number of masks", (value) => String(+value.toFixed(1))),
    histogram("Area", proposals.area, "Masks by share of the image, on a log scale", share),
    histogram("Coverage", proposals.coverage, "Images by the share of a 32 x 32 grid that is inside some mask", percent),
    histogram("Best IoU with the truth", proposals.best_iou, "Expressions with a picture and a true mask, by the best IoU of a proposal", percent),
    histogram("Predicted IoU", proposals.predicted_iou, "Masks by the generator's estimate"), histogram("Stability", proposals.stability_score, "Masks by stability score"),
    some("Failures", proposals.failures, "Images without masks", "failed")]);
  const truth = Object.keys(content.truth).length, judged = Object.keys(content.evaluation).length;
  legend(document.getElementById("filters"), judged ? ["prediction"] : [], truth);
  if (judged || truth) document.getElementById("hint").prepend("Choose an expression to see its prediction, its ground truth and its response maps. ");
  storeGallery(content);
});
