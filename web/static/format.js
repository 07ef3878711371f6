// Numbers and times as people read them. Quantities are decimal strings and stay strings: a binary float would round them.

const GROUP = "\u2009"; // a thin space: where a number must be broken, it breaks between groups

/** "-1234567.50" -> {whole: "−1 234 567", fraction: ".50"}; any other text comes back whole. */
export function decimal(text) {
  const match = /^(-?)(\d+)(\.\d+)?$/.exec(String(text ?? ""));
  if (!match) return { whole: String(text ?? "–"), fraction: "" };
  const [, sign, whole, fraction = ""] = match;
  return { whole: (sign ? "−" : "") + whole.replace(/\B(?=(\d{3})+$)/g, GROUP), fraction };
}

/** An integer with groups. */
export const count = (number) => decimal(number ?? 0).whole;

/** "1 event", "2 events". */
export const events = (number) => `${count(number)} event${number === 1 ? "" : "s"}`;

/** A signed decimal string: "5" -> "+5". */
export function signed(text) {
  const { whole, fraction } = decimal(text);
  return (whole.startsWith("−") ? "" : "+") + whole + fraction;
}

/** 1234.5 -> "1 235", 0.25 -> "0.3": a rate that nobody bills. */
export const rate = (number) => (number >= 10 || number === 0 ? count(Math.round(number)) : number.toFixed(1));

const SIZE_WORDS = [["W", "week"], ["D", "day"], ["H", "h"], ["M", "min"], ["S", "s"]];

/** "PT1M" -> "1 min", "P1DT12H" -> "1 day 12 h". */
export function size(text) {
  const words = [];
  for (const [, number, unit] of String(text).matchAll(/(\d+(?:\.\d+)?)([WDHMS])/g)) {
    const word = SIZE_WORDS.find(([letter]) => letter === unit)[1];
    words.push(`${number} ${word}${word.length > 3 && number !== "1" ? "s" : ""}`);
  }
  return words.join(" ") || String(text);
}

/** Sorts sizes from short to long. */
export function seconds(text) {
  const units = { W: 604800, D: 86400, H: 3600, M: 60, S: 1 };
  let sum = 0;
  for (const [, number, unit] of String(text).matchAll(/(\d+(?:\.\d+)?)([WDHMS])/g)) sum += Number(number) * units[unit];
  return sum;
}

/** RFC 3339 in UTC, shortened: "12:03:20" today, "Jan 30 12:03" otherwise, with the year if it is another one. */
export function time(text, nowMs, withSeconds = true) {
  const ms = Date.parse(text);
  if (Number.isNaN(ms)) return "–";
  const iso = new Date(ms).toISOString();
  const now = new Date(nowMs).toISOString();
  const clock = iso.slice(11, withSeconds ? 19 : 16);
  if (iso.slice(0, 10) === now.slice(0, 10)) return clock;
  const day = new Date(ms).toLocaleDateString("en", { month: "short", day: "numeric", timeZone: "UTC" });
  return `${day}${iso.slice(0, 4) === now.slice(0, 4) ? "" : ` ${iso.slice(0, 4)}`} ${iso.slice(11, 16)}`;
}

/** "12:00 – 12:01" of a window; whole days have no clock. */
export function span(start, end, nowMs) {
  const from = new Date(Date.parse(start)).toISOString();
  const to = new Date(Date.parse(end)).toISOString();
  if (from.endsWith("T00:00:00.000Z") && to.endsWith("T00:00:00.000Z")) return time(start, nowMs).replace(/ ?00:00(:00)?$/, "") || "today";
  const fine = !from.endsWith(":00.000Z") || !to.endsWith(":00.000Z");
  return `${time(start, nowMs, fine)} – ${to.slice(11, fine ? 19 : 16)}`;
}

/** A length of time: "4.2 s", "3 min", "5 h", "12 days", "2.2 years". */
export function length(ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  if (s < 63072000) return `${Math.round(s / 86400)} days`;
  return `${(s / 31536000).toFixed(1)} years`;
}

/** "http://host:6066" -> "host:6066". */
export const host = (url) => String(url ?? "").replace(/^https?:\/\//, "");
