// The conservation ledger as an equation, with its verdict.

import { $, fill, h, keyed, svg } from "./dom.js";
import * as format from "./format.js";

const TERMS = [["read", "read", ""], ["counted", "counted", "="], ["duplicate", "duplicate", "+"], ["unmatched", "unmatched", "+"], ["dead_lettered", "dead letters", "+"]];
const COLUMNS = ["read", "counted", "duplicate", "unmatched", "dead_lettered", "late", "keyless", "ticks"];
const ROWS_MAX = 64;

/** Shows `audit` of /v1/status. */
export function show(audit) {
  equation(audit.total);
  verdict(audit);
  notes(audit);
  table(audit);
}

function equation(total) {
  keyed($("equation"), TERMS, ([name]) => name, ([name, label, operator]) => {
    const term = h("div", `term ${name}`, [h("b"), h("span", "", label)]);
    return operator ? h("div", "operand", [h("span", "operator", operator), term]) : term;
  }, (element, [name, , operator]) => fill((operator ? element.lastChild : element).firstChild, format.count(total[name])));
  const fates = TERMS.slice(1).map(([name]) => name);
  keyed($("shares"), fates.filter((name) => total[name] > 0), String, (name) => h("i", name), (element, name) => {
    element.style.flexGrow = String(total[name]);
  });
}

const TICK = "M16 30l9 9 18-20";
const CROSS = "M19 19l20 20M39 19l-20 20";
const WAIT = "M29 17v13l8 5";

function verdict(audit) {
  const wrong = Object.entries(audit.partitions).filter(([, ledger]) => !ledger.balanced).map(([partition]) => partition);
  let [tone, path, title, text] = ["good", TICK, "Balanced", `in ${Object.keys(audit.partitions).length === 1 ? "the one partition" : `each of ${Object.keys(audit.partitions).length} partitions`}`];
  if (wrong.length) [tone, path, title, text] = ["bad", CROSS, "Out of balance", `in partition ${wrong.join(", ")}`];
  else if (!Object.keys(audit.partitions).length) [tone, path, title, text] = ["calm", WAIT, "Nothing to balance", "no partition answers yet"];
  else if (!audit.complete) [tone, path, title, text] = ["warn", WAIT, "Not complete", audit.missing.length ? `balanced, without partition ${audit.missing.join(", ")}` : "balanced so far"];
  const box = $("verdict");
  box.className = `verdict ${tone}`;
  if (box.dataset.path !== path) {
    box.dataset.path = path;
    const icon = svg("svg", { viewBox: "0 0 58 58", "aria-hidden": "true" }, [svg("circle", { cx: 29, cy: 29, r: 26 }), svg("path", { d: path })]);
    fill(box, [icon, h("b"), h("span")]);
  }
  fill(box.children[1], title);
  fill(box.children[2], text);
}

function notes(audit) {
  const sum = (name) => Object.values(audit.partitions).reduce((total, ledger) => total + (ledger[name] ?? 0), 0);
  const parts = [document.createTextNode(`${format.count(audit.total.late)} of the counted were late and revised their own window`)];
  const keyless = sum("keyless");
  if (keyless) parts.push(document.createTextNode(" · "), h("b", "", `${format.count(keyless)} came without a key`), document.createTextNode(": a retry may land in another partition and count again; key events by subject"));
  const gaps = audit.gaps ?? [];
  const passed = gaps.reduce((total, gap) => total + gap.to - gap.from, 0);
  if (passed) parts.push(document.createTextNode(" · "), h("b", "", `${format.count(passed)} offsets were never counted`), document.createTextNode(`, by decision: ${gaps.map((gap) => `${gap.stage} ${gap.partition}, ${gap.from} to ${gap.to}${gap.reason ? ` (${gap.reason})` : ""}`).join("; ")}`));
  const text = parts.map((part) => part.textContent).join("");
  if ($("ledger-notes").textContent !== text) fill($("ledger-notes"), parts);
}

function table(audit) {
  const element = $("ledger-table");
  if (!element.tHead) {
    const head = element.createTHead().insertRow();
    head.append(h("th", "", "partition"), ...COLUMNS.map((name) => h("th", "number", name.replaceAll("_", " "))), h("th"));
    element.createTBody();
  }
  const rows = Object.entries(audit.partitions).slice(0, ROWS_MAX);
  keyed(element.tBodies[0], rows, ([partition]) => partition, ([partition]) => h("tr", "", [h("td", "", partition), ...COLUMNS.map(() => h("td", "number")), h("td", "number")]), (row, [, ledger]) => {
    COLUMNS.forEach((name, i) => fill(row.children[i + 1], format.count(ledger[name])));
    row.lastChild.className = ledger.balanced ? "number" : "number lagging";
    fill(row.lastChild, ledger.balanced ? "✓" : "out of balance");
  });
}
