// One window with its receipt, in a dialog: what finance verifies a line with.

import { $, fill, h } from "./dom.js";
import * as format from "./format.js";

export function start() {
  const dialog = $("receipt");
  $("receipt-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  $("revisions").addEventListener("click", (event) => {
    const row = event.target.closest("button[data-window]");
    if (row) open(row.dataset.window, row.dataset.subject);
  });
}

async function open(id, subject) {
  const dialog = $("receipt");
  fill($("receipt-title"), "Window");
  fill($("receipt-body"), h("p", "quiet", "asking…"));
  dialog.showModal();
  try {
    const response = await fetch(`/v1/windows/${encodeURIComponent(id)}?subject=${encodeURIComponent(subject)}`);
    const found = await response.json();
    fill($("receipt-body"), response.ok ? body(found) : h("p", "notice warn", [h("i", "", "!"), h("b", "", found.detail), h("span", "", found.hint)]));
  } catch {
    fill($("receipt-body"), h("p", "notice bad", [h("i", "", "!"), h("b", "", "This worker does not answer."), h("span", "", "Try again in a few seconds.")]));
  }
}

function body(found) {
  const facts = [
    ["subject", found.subject],
    ["meter", `${found.meter}, version ${found.meter_version ?? "?"}${found.aggregation ? ` (${found.aggregation})` : ""}`],
    ["group", Object.entries(found.group ?? {}).map(([name, text]) => `${name}: ${text}`).join(", ") || "–"],
    ["window", `${found.window_start} – ${found.window_end} (${format.size(found.window_size)})`],
    ["state", `${found.state}${found.pending ? ", with changes that have not left yet" : ""}`],
    ["value", `${found.value}${found.unit ? ` ${found.unit}` : ""}`],
    ["revision", `${found.revision}, delta ${format.signed(found.delta)}, ${found.reason ?? ""}`],
    ["events", format.count(found.events)],
    ["id", found.id],
  ];
  const list = h("dl", "facts", facts.flatMap(([name, text]) => [h("dt", "", name), h("dd", name === "id" || name === "value" ? "mono" : "", text)]));
  return [list, h("h2", "", "Receipt"), h("p", "quiet", "what was counted, from where: finance can verify the line, a replay can prove it"), ...proof(found.receipt)];
}

/** The receipt: a table of its sources, and all of it as it was written. */
function proof(receipt) {
  const raw = h("pre", "", JSON.stringify(receipt ?? null, null, 2));
  const sources = Array.isArray(receipt?.sources) ? receipt.sources : [];
  if (!sources.length) return [raw];
  const head = h("tr", "", [h("th", "", "usage partition"), h("th", "number", "events"), h("th", "number", "offsets"), h("th", "", "digest of the event ids")]);
  const rows = sources.map((one) => h("tr", "", [h("td", "", one.partition), h("td", "number", format.count(one.events)), h("td", "number", `${one.first_offset} – ${one.last_offset}`), h("td", "mono", one.digest)]));
  const whole = h("details", "", [h("summary", "", "as written"), raw]);
  return [h("div", "scroll", h("table", "", [h("thead", "", head), h("tbody", "", rows)])), whole];
}
