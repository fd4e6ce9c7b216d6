// Counts as bars and histograms.
function bars(title, pairs, note, kind) {
  const top = Math.max(1, ...pairs.map(([, n]) => n));
  return make("div", {className: "card"}, make("h3", {}, title), note ? make("p", {className: "soft"}, note) : null,
    ...pairs.map(([name, n]) => make("div", {className: `bar ${kind || ""}`}, make("span", {}, make("bdi", {}, String(name))),
      make("i", {style: `width:${(100 * n / top).toFixed(2)}%`}), make("span", {className: "number"}, count.format(n)))));
}

// Counts by whole number: columns from the lowest to the highest, with the mean.
function numbers(title, pairs, note) {
  const n = pairs.reduce((sum, [, some]) => sum + some, 0), by = new Map(pairs.map(([value, some]) => [value, some]));
  if (!n) return null;
  const low = pairs[0][0], high = Math.min(pairs[pairs.length - 1][0], low + 39), steps = [];
  for (let value = low; value <= high; value++) steps.push([value, by.get(value) || 0]);
  const over = pairs.filter(([value]) => value > high).reduce((sum, [, some]) => sum + some, 0);
  const mean = pairs.reduce((sum, [value, some]) => sum + value * some, 0) / n;
  return columns(title, steps, `${note}; mean ${mean.toFixed(2)}${over ? `; ${count.format(over)} above ${high}` : ""}`,
    (value) => String(value), [low, high]);
}

function histogram(title, {bars: steps, step, n, mean}, note, label = (value) => String(+value.toFixed(3))) {
  if (!steps.length) return null;
  const last = steps[steps.length - 1][0] + step;
  return columns(title, steps, `${note}; mean ${label(mean)}, n ${count.format(n)}`, (from) => `${label(from)} to ${label(from + step)}`,
    [label(steps[0][0]), label((steps[0][0] + last) / 2), label(last)]);
}

function columns(title, steps, note, label, axis) {
  const top = Math.max(1, ...steps.map(([, n]) => n));
  return make("div", {className: "card"}, make("h3", {}, title), make("p", {className: "soft"}, note),
    make("div", {className: "columns", role: "img", ariaLabel: `${title}: ${note}`}, ...steps.map(([from, n]) => make("i", {
      style: `height:${(100 * n / top).toFixed(2)}%`, title: `${label(from)}: ${count.format(n)}`}))),
    make("div", {className: "axis"}, ...axis.map((text) => make("span", {}, String(text)))));
}
