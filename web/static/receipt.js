// One window with its receipt, in a dialog: what finance verifies a line with.

import { $, fill, h } from "./dom.js";
import * as format from "./format.js";
import { quantity } from "./totals.js";

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
  const value = h("b", "", quantity(found.value));
  value.title = found.value;
  const facts = [
    ["subject", found.subject],
    ["meter", `${found.meter}, version ${found.meter_version ?? "?"}${found.aggregation ? ` (${found.aggregation})` : ""}`],
    ["group", Object.entries(found.group ?? {}).map(([name, text]) => `${name}: ${text}`).join(", ") || "–"],
    ["window", `${found.window_start} – ${found.window_end} (${format.size(found.window_size)})`],
    ["state", `${found.state}${found.pending ? ", with changes that have not left yet" : ""}`],
    ["value", found.value],
    ["revision", `${found.revision}, delta ${format.signed(found.delta)}, ${found.reason ?? ""}`],
    ["events", format.count(found.events)],
    ["id", found.id],
  ];
  const list = h("dl", "facts", facts.flatMap(([name, text]) => [h("dt", "", name), h("dd", name === "id" || name === "value" ? "mono" : "", text)]));
  return [list, h("h2", "", "Receipt"), h("p", "quiet", "what was counted, from where: events, offsets and a digest of the event ids per source partition"), h("pre", "", JSON.stringify(found.receipt ?? null, null, 2))];
}
