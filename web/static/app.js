// The page: polls /v1/status, listens to /v1/live, and says so when either does not come.

import { $, fill } from "./dom.js";
import * as format from "./format.js";
import * as ledger from "./ledger.js";
import * as panels from "./panels.js";
import * as receipt from "./receipt.js";
import * as totals from "./totals.js";

const POLL_MS = 2000;
const TIMEOUT_MS = 8000;

let status = null;
let failedSince = null;
let live = "connecting";
let liveNote = null;
let skew = 0; // the worker's clock minus this browser's
const now = () => Date.now() + skew;

async function poll() {
  try {
    const response = await fetch("/v1/status", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!response.ok) throw new Error(`answered ${response.status}`);
    status = await response.json();
    skew = status.now_ms - Date.now();
    failedSince = null;
  } catch {
    failedSince ??= Date.now();
  }
  setTimeout(poll, POLL_MS); // first: whatever drawing does, the next answer is asked for
  draw();
}

function draw() {
  $("main").classList.toggle("stale", failedSince !== null);
  if (failedSince !== null) {
    const since = new Date(failedSince).toLocaleTimeString();
    const what = status ? `This worker has not answered since ${since}` : "This worker does not answer";
    const hint = status ? "What you see is the last it told. Trying again every two seconds." : "It may still be starting. Trying again every two seconds.";
    panels.notices([], [{ kind: "down", where: "page", what, hint }]);
  } else {
    panels.show(status);
    ledger.show(status.audit);
    fill($("where"), `${format.host(status.asked)} · ${new Date(status.now_ms).toISOString().slice(0, 19).replace("T", " ")} UTC`);
  }
  pill();
}

function pill() {
  const tone = failedSince !== null ? "bad" : live === "open" && !liveNote ? "good" : "warn";
  const text = failedSince !== null ? "no answer" : live !== "open" ? "live feed reconnecting…" : liveNote ?? "live";
  $("pill").className = `pill ${tone}`;
  fill($("pill"), text);
}

function listen() {
  const source = new EventSource("/v1/live?interval_ms=1000");
  source.addEventListener("open", () => {
    live = "open";
    totals.inSnapshot(true);
    pill();
  });
  source.addEventListener("error", () => {
    live = "connecting";
    // A refusal (too many readers) closes it for good; a lost connection is taken up by the browser itself.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 10000);
    pill();
  });
  source.addEventListener("total", (event) => totals.take(JSON.parse(event.data)));
  source.addEventListener("snapshot", () => totals.inSnapshot(false));
  source.addEventListener("workers", (event) => {
    const coverage = JSON.parse(event.data);
    liveNote = coverage.complete ? null : `live, without ${coverage.missing_workers.length} worker${coverage.missing_workers.length > 1 ? "s" : ""}`;
    pill();
  });
}

totals.start(now);
receipt.start();
listen();
poll();
