// Running totals: one row per series (subject, meter, group, window size), showing its newest window, fed by /v1/live.

import { $, bars, cut, fill, h, keyed, line } from "./dom.js";
import * as format from "./format.js";

const SLOTS = 24; // bars of a sparkline
const SLOT_MS = 2000;
const SERIES_MAX = 5000; // kept in memory; the series that were silent longest go first
const ROWS_STEP = 60; // rows on the page, and how many "more" adds
const GROWING = new Set(["sum", "count", "unique_count"]); // their change is worth seeing; of the others, the value itself

const series = new Map();
let chosenSize = null;
let rowsMax = ROWS_STEP;
let dirty = false;
let nowMs = () => Date.now();
let snapshot = true; // what a snapshot brings has not changed just now

/** Takes one `total` event. */
export function take(item) {
  const key = JSON.stringify([item.subject, item.meter, item.group, item.window_size]);
  let one = series.get(key);
  if (one && Date.parse(one.item.window_start) > Date.parse(item.window_start)) return; // a late revision of an older window
  const value = Number(item.value);
  const grown = snapshot || !one ? 0 : one.item.id === item.id ? value - Number(one.item.value) : value;
  const before = one?.item;
  one ??= { key, history: [], sort: [item.subject, item.meter, JSON.stringify(item.group), format.seconds(item.window_size)] };
  series.delete(key); // and set again: the map is in order of the last change
  series.set(key, one);
  one.item = item;
  one.changed = !snapshot && before !== undefined && (before.value !== item.value || before.id !== item.id);
  note(one, GROWING.has(item.aggregation) || item.aggregation === undefined, grown, value);
  if (series.size > SERIES_MAX) series.delete(series.keys().next().value);
  dirty = true;
}

function note(one, growing, grown, value) {
  const slot = Math.floor(Date.now() / SLOT_MS);
  one.growing = growing;
  const last = one.history.at(-1);
  if (last?.slot === slot) last.value = growing ? last.value + Math.max(0, grown) : value;
  else one.history.push({ slot, value: growing ? Math.max(0, grown) : value });
  while (one.history.length && one.history[0].slot <= slot - SLOTS) one.history.shift();
}

/** A feed has been opened (true), or its snapshot is through (false). */
export function inSnapshot(yes) {
  snapshot = yes;
}

export function start(clock) {
  nowMs = clock;
  $("filter").addEventListener("input", () => {
    rowsMax = ROWS_STEP;
    dirty = true;
  });
  $("totals-more").addEventListener("click", () => {
    rowsMax += ROWS_STEP;
    dirty = true;
  });
  setInterval(() => {
    if (dirty) render();
  }, 500);
  setInterval(() => {
    dirty = true; // sparklines move on even while nothing changes
  }, SLOT_MS);
}

function render() {
  dirty = false;
  const every = [...series.values()];
  sizes(every);
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = every
    .filter((one) => chosenSize === null || one.item.window_size === chosenSize)
    .filter((one) => words.every((word) => one.key.toLowerCase().includes(word)))
    .sort(compare);
  const shown = found.slice(0, rowsMax);
  keyed($("totals").tBodies[0], shown, (one) => one.key, create, update);
  shown.forEach((one, i) => $("totals").tBodies[0].rows[i].classList.toggle("again", shown[i - 1]?.item.subject === one.item.subject));
  $("totals").hidden = !shown.length;
  fill($("totals-count"), every.length ? format.count(found.length) : "");
  const more = found.length - shown.length;
  $("totals-more").hidden = more <= 0;
  fill($("totals-more"), `${format.count(more)} more`);
  empty(every.length, found.length);
}

function empty(all, found) {
  if (found) return fill($("totals-empty"), null);
  if (all) return fill($("totals-empty"), "Nothing matches the filter.");
  if ($("totals-empty").childElementCount) return null;
  const code = h("code", "", "python app.py send usage.ndjson --source NAME");
  return fill($("totals-empty"), [h("b", "", "Waiting for usage…"), document.createTextNode("Running totals appear with the first event. "), h("br"), code]);
}

function sizes(every) {
  const names = [...new Set(every.map((one) => one.item.window_size))].sort((a, b) => format.seconds(a) - format.seconds(b));
  const choices = names.length > 1 ? [null, ...names] : [];
  keyed($("sizes"), choices, String, (name) => {
    const button = h("button", "", name === null ? "all" : format.size(name));
    button.type = "button";
    button.addEventListener("click", () => {
      chosenSize = name;
      rowsMax = ROWS_STEP;
      render();
    });
    return button;
  }, (button, name) => button.setAttribute("aria-pressed", String(name === chosenSize)));
}

function compare(a, b) {
  for (let i = 0; i < a.sort.length; i++) {
    if (a.sort[i] < b.sort[i]) return -1;
    if (a.sort[i] > b.sort[i]) return 1;
  }
  return 0;
}

function create(one) {
  const row = h("tr");
  const { item } = one;
  const group = Object.entries(item.group ?? {}).map(([name, value]) => `${name}: ${value}`).join(", ");
  const meter = h("td", "", [cut(item.meter), group ? cut(group, "group") : null]);
  const spark = one.growing ? bars(new Array(SLOTS).fill(0)) : line([0, 0]);
  row.parts = { window: h("td"), spark, events: h("td", "number quiet"), value: h("td", "number value"), badge: h("td", "number") };
  const { window, events, value, badge } = row.parts;
  row.append(h("td", "subject", cut(item.subject)), meter, window, h("td", "", spark), events, value, badge);
  return row;
}

function update(row, one) {
  const { item } = one;
  const { window, spark, events, value, badge } = row.parts;
  const when = `${item.id} ${nowMs() / 86400000 | 0}`;
  if (row.window !== when) {
    row.window = when;
    fill(window, [document.createTextNode(format.span(item.window_start, item.window_end, nowMs())), h("small", "", format.size(item.window_size))]);
  }
  if (row.value !== item.value) {
    row.value = item.value;
    fill(value, quantity(item.value, item.unit));
    value.title = item.value;
    value.classList.toggle("long", item.value.length > 16);
  }
  fill(events, format.count(item.events));
  const state = item.provisional ? `provisional ${item.revision}` : `final ${item.revision}`;
  if (row.state !== state) {
    row.state = state;
    fill(badge, stateBadge(item));
  }
  const slot = Math.floor(Date.now() / SLOT_MS);
  const history = new Map(one.history.map((entry) => [entry.slot, entry.value]));
  if (one.growing) bars(Array.from({ length: SLOTS }, (_, i) => history.get(slot - SLOTS + 1 + i) ?? 0), spark);
  else line([one.history[0], ...one.history].map((entry) => entry?.value ?? 0), spark);
  if (one.changed) {
    one.changed = false;
    row.classList.remove("changed");
    void row.offsetWidth; // restarts the animation
    row.classList.add("changed");
  }
}

/** A decimal string with its fraction quieter; more than six decimals are cut, the tooltip has them all. */
export function quantity(text, unit) {
  const { whole, fraction } = format.decimal(text);
  const short = fraction.length > 7 ? `${fraction.slice(0, 7)}…` : fraction;
  return [document.createTextNode(whole), short ? h("span", "fraction", short) : null, unit ? h("span", "unit", ` ${unit}`) : null];
}

export function stateBadge(item) {
  if (!item.provisional) return h("span", "badge good", `final · r${item.revision}`);
  const badge = h("span", "badge accent", item.revision ? `r${item.revision} · pending` : "provisional");
  badge.title = item.revision ? "closed, with late usage that leaves as the next revision" : "the window is still open";
  return badge;
}
