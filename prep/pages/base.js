"use strict";
// Shared by the pages of both programs. All text is inserted as text nodes, never as markup.
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

// Read out by screen readers: what a key changed.
function announce(text) {
  document.getElementById("live").textContent = text;
}

// A name with an explanation that appears on hover, focus and tap.
function term(name, text) {
  const button = make("button", {type: "button", className: "term"}, name), tip = document.getElementById("tip");
  const place = () => {
    const box = button.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${box.bottom + 6 + tip.offsetHeight > innerHeight ? box.top - tip.offsetHeight - 6 : box.bottom + 6}px`;
  };
  const show = () => {
    Object.assign(tip, {textContent: text, hidden: false, place});
    button.setAttribute("aria-describedby", "tip");
    place();
  };
  const hide = () => { tip.hidden = true; button.removeAttribute("aria-describedby"); };
  button.addEventListener("pointerenter", show);
  button.addEventListener("focus", show);
  button.addEventListener("click", show);
  button.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  button.addEventListener("blur", hide);
  button.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  return button;
}

// A table that scrolls sideways where it is wider than the screen. A head is a text, or an element.
function tableOf(head, rows, numbers = []) {
  const kind = (at) => numbers.includes(at) ? {className: "number"} : {};
  return scrolling(make("table", {},
    head.length ? make("thead", {}, make("tr", {}, ...head.map((name, at) => make("th", {scope: "col", ...kind(at)}, name)))) : null,
    make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell, at) => make("td", kind(at), cell)))))));
}

function scrolling(table) {
  const box = make("div", {className: "scroll"}, table);
  new ResizeObserver(() => {  // the keyboard scrolls only what can have the focus
    if (box.scrollWidth > box.clientWidth) { box.tabIndex = 0; box.setAttribute("role", "region"); box.ariaLabel = "table that scrolls sideways"; }
    else { box.removeAttribute("tabindex"); box.removeAttribute("role"); box.removeAttribute("aria-label"); }
  }).observe(box);
  return box;
}

// Appends cards on scrolling; returns a function that replaces the cards, each given as a function that creates it.
const PAGE = 24;
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

function start(show) {
  addEventListener("pointerdown", (event) => { if (!event.target.closest(".term")) document.getElementById("tip").hidden = true; });
  addEventListener("scroll", () => { const tip = document.getElementById("tip"); if (!tip.hidden) tip.place(); }, {passive: true, capture: true});
  unpack(document.getElementById("content").textContent).then((content) => {
    show(content);
    document.documentElement.dataset.ready = "yes";
  }).catch((error) => { document.getElementById("lead").textContent = `This page could not be displayed: ${error}`; throw error; });
}
