// Everything that /v1/status tells, but the ledger: alarms, tiles, closed windows, partitions, outbox, dead letters, workers.

import { $, bars, cut, fill, h, keyed } from "./dom.js";
import * as format from "./format.js";
import { quantity } from "./totals.js";

const RATES = 24; // polls that the events/s bars look back
const PARTITIONS_MAX = 64; // rows; what is restoring, stopped or lagging comes first
const rates = new Array(RATES).fill(0);
let last = null; // {read, at} of the poll before

/** Shows one answer of /v1/status. */
export function show(status) {
  notices(status.alarms);
  restoring(status);
  tiles(status);
  revisions(status);
  partitions(status);
  outbox(status);
  letters(status);
  workers(status);
}

/** Alarms, worst first; `extra` ones are the page's own. */
export function notices(alarms, extra = []) {
  const shown = [...extra, ...alarms];
  const capped = shown.slice(0, 12);
  if (shown.length > capped.length) capped.push({ kind: "more", where: "", what: `${shown.length - capped.length} more alarms`, hint: "all of them are in /v1/status" });
  keyed($("notices"), capped, (alarm) => `${alarm.kind} ${alarm.where}`, () => {
    const row = h("div", "notice bad");
    row.setAttribute("role", "alert");
    row.append(h("i", "", "!"), h("b"), h("span"));
    return row;
  }, (row, alarm) => {
    row.className = `notice ${alarm.kind === "partition_unowned" || alarm.level === "warn" ? "warn" : "bad"}`;
    fill(row.children[1], !alarm.where || alarm.kind === "down" || String(alarm.what).includes(alarm.where) ? alarm.what : `${alarm.where}: ${alarm.what}`);
    fill(row.children[2], alarm.hint ?? "");
  });
}

const tasks = (status) => ["metering", "closing"].flatMap((stage) => Object.entries(status[stage]).map(([partition, task]) => ({ stage, partition, task })));

function restoring(status) {
  const running = tasks(status).filter(({ task }) => task.state === "restoring");
  $("restoring").hidden = !running.length;
  if (!running.length) return;
  const done = running.reduce((sum, { task }) => sum + (task.restored ?? 0), 0) / running.length;
  const names = running.slice(0, 8).map(({ stage, partition }) => `${stage} ${partition}`).join(", ");
  const bar = h("div", "progress", h("i"));
  bar.firstChild.style.width = `${(done * 100).toFixed(1)}%`;
  fill($("restoring"), [h("p", "", `Restoring ${running.length} partition${running.length > 1 ? "s" : ""} from the log: ${Math.floor(done * 100)} %`), bar, h("p", "quiet", names + (running.length > 8 ? ` and ${running.length - 8} more` : ""))]);
}

function tiles(status) {
  const read = status.audit.total.read;
  const all = tasks(status);
  if (last && status.now_ms > last.at) {
    rates.push(Math.max(0, (read - last.read) / ((status.now_ms - last.at) / 1000)));
    rates.shift();
  }
  last = { read, at: status.now_ms };
  const lag = all.reduce((sum, { task }) => sum + (task.lag ?? 0), 0);
  const worst = all.reduce((most, { task }) => Math.max(most, task.lag ?? 0), 0);
  const marks = Object.values(status.closing).map((task) => Date.parse(task.watermark)).filter((ms) => !Number.isNaN(ms));
  const behind = marks.length ? status.now_ms - Math.min(...marks) : null;
  const sum = (name) => Object.values(status.closing).reduce((total, task) => total + (task[name] ?? 0), 0);
  const waiting = Object.values(status.sinks).reduce((total, sink) => total + (sink.waiting ?? 0), 0);
  const delivered = Object.values(status.sinks).reduce((total, sink) => total + (sink.delivered ?? 0), 0);
  const shown = [
    { name: "Events per second", value: format.rate(rates.at(-1)), note: `${format.count(read)} read in all`, bars: true },
    { name: "Open windows", value: format.count(sum("windows_open")), note: `${format.count(sum("windows_closed"))} closed, until sealed` },
    { name: "Revisions", value: format.count(sum("revisions")), note: `${format.count(delivered)} deliveries done` },
    { name: "Waiting in the outbox", value: format.count(waiting), note: waiting ? "not yet with every sink" : "all delivered", alert: Object.values(status.sinks).some((sink) => sink.state === "retrying") },
    { name: "Lag", value: format.count(lag), note: lag ? `${format.count(worst)} in the worst partition` : "nothing to catch up with", unit: "records" },
    { name: "Watermark behind", value: behind === null ? "–" : format.length(behind), note: marks.length ? new Date(Math.min(...marks)).toISOString().slice(0, 19).replace("T", " ") : "no event yet" },
  ];
  keyed($("tiles"), shown, (tile) => tile.name, (tile) => {
    const element = h("dl", "tile", [h("dt", "", tile.name), h("dd"), h("p")]);
    if (tile.bars) element.append(bars(rates));
    return element;
  }, (element, tile) => {
    fill(element.children[1], tile.unit ? [document.createTextNode(`${tile.value} `), h("small", "", tile.unit)] : tile.value);
    fill(element.children[2], tile.note);
    element.classList.toggle("alert", Boolean(tile.alert));
    if (tile.bars) bars(rates, element.children[3]);
  });
}

function revisions(status) {
  const list = status.recent_revisions;
  const first = !$("revisions").childElementCount;
  keyed($("revisions"), list, (item) => `${item.id}:${item.revision}`, (item) => {
    const row = h("button", "row");
    row.type = "button";
    const group = Object.entries(item.group ?? {}).map(([name, value]) => `${name}: ${value}`).join(", ");
    const value = h("span", "value end", quantity(item.value, item.unit));
    value.title = item.value;
    const delta = h("span", `delta end${String(item.delta).startsWith("-") ? " down" : ""}`, item.revision > 1 ? format.signed(item.delta) : format.events(item.events));
    if (item.revision <= 1) delta.className = "quiet end";
    const title = h("span", "top cut", [document.createTextNode(item.subject), h("span", "quiet", item.meter)]);
    title.title = `${item.subject} · ${item.meter}`;
    const reason = item.revision > 1 || (item.reason && item.reason !== "closed") ? ` · ${item.reason ?? "revised"}` : "";
    const badge = h("span", `badge ${item.revision > 1 ? "warn" : "good"}`, `r${item.revision}${reason}`);
    const what = `${format.span(item.window_start, item.window_end, status.now_ms)} · ${format.size(item.window_size)}${group ? ` · ${group}` : ""}`;
    const line = h("span", "quiet cut", [badge, document.createTextNode(` ${what}`)]);
    line.title = what;
    row.append(title, value, line, delta);
    row.dataset.window = item.id;
    row.dataset.subject = item.subject;
    return h("li", first ? "" : "fresh", row);
  });
  fill($("revisions-count"), list.length ? `newest ${list.length}` : "");
  const end = tasks(status).length ? "A window closes when the watermark passes its end and grace." : "No partition is running yet.";
  fill($("revisions-empty"), list.length ? null : [h("b", "", "No window has closed yet"), document.createTextNode(end)]);
}

const concern = ({ task }) => (task.state === "stopped" ? 2e15 : task.state === "restoring" ? 1e15 : task.lag ?? 0);

function partitions(status) {
  let all = tasks(status);
  const more = all.length - PARTITIONS_MAX;
  if (more > 0) all = [...all].sort((a, b) => concern(b) - concern(a)).slice(0, PARTITIONS_MAX);
  keyed($("partitions").tBodies[0], all, ({ stage, partition }) => `${stage} ${partition}`, ({ stage, partition }) => {
    const row = h("tr", "", [h("td", "", [h("b", "", `${stage} `), document.createTextNode(partition)])]);
    for (const name of ["", "number", "", "number quiet", "quiet", ""]) row.append(h("td", name));
    return row;
  }, (row, { stage, task }) => {
    const [, state, lag, watermark, position, holds, worker] = row.children;
    fill(state, taskState(task));
    lag.classList.toggle("lagging", (task.lag ?? 0) > 1000);
    fill(lag, task.lag === null || task.lag === undefined ? "–" : format.count(task.lag));
    const age = task.watermark ? `${format.length(status.now_ms - Date.parse(task.watermark))} behind` : "";
    fill(watermark, [document.createTextNode(task.watermark ? format.time(task.watermark, status.now_ms) : "no event yet"), age ? h("small", "", age) : null]);
    watermark.title = task.watermark ?? "";
    fill(position, `${format.count(task.position)} / ${format.count(task.end)}`);
    fill(holds, stage === "metering" ? `${format.count(task.ids)} ids, ${format.count(task.partials)} partials` : `${format.count(task.windows_open)} open, ${format.count(task.windows_closed)} closed`);
    fill(worker, cut(format.host(task.worker), "quiet"));
  });
  $("partitions").hidden = !all.length;
  $("partitions").classList.toggle("alone", status.workers.length < 2);
  fill($("partitions-empty"), all.length ? (more > 0 ? `${more} more partitions, all calmer than these` : null) : [h("b", "", "No partition yet"), document.createTextNode("The consumer group is forming, or the broker does not answer.")]);
}

function taskState(task) {
  if (task.state === "running") return h("span", "badge good", "running");
  if (task.state === "restoring") {
    const bar = h("span", "progress", h("i"));
    bar.firstChild.style.width = `${((task.restored ?? 0) * 100).toFixed(1)}%`;
    return [bar, document.createTextNode(` ${Math.floor((task.restored ?? 0) * 100)} %`)];
  }
  const badge = h("span", "badge bad", task.state);
  badge.title = [task.reason, task.hint].filter(Boolean).join(" → ");
  return badge;
}

const SINK_NAMES = { servicebus: "Service Bus", cosmos: "Cosmos DB" };
const SINK_STATES = { up: ["good", "up"], retrying: ["warn", "retrying"], unconfigured: ["calm", "not configured"] };

function outbox(status) {
  const sinks = Object.entries(status.sinks);
  keyed($("sinks"), sinks, ([name]) => name, ([name]) => {
    const card = h("div", "sink");
    const numbers = h("dl");
    for (const label of ["waiting", "delivered", "parked"]) numbers.append(h("div", "", [h("dt", "", label), h("dd")]));
    card.append(h("div", "head", [h("b", "grow", SINK_NAMES[name] ?? name), h("span", "pill")]), numbers, h("p"));
    return card;
  }, (card, [, sink]) => {
    const [head, numbers, error] = card.children;
    const [tone, word] = SINK_STATES[sink.state] ?? ["bad", sink.state];
    head.lastChild.className = `pill ${tone}`;
    fill(head.lastChild, word);
    ["waiting", "delivered", "parked"].forEach((name, i) => fill(numbers.children[i].lastChild, format.count(sink[name])));
    const next = sink.state === "retrying" && sink.retry_in_s !== null ? `next try in ${format.length(sink.retry_in_s * 1000)}` : "";
    fill(error, [sink.error, next].filter(Boolean).join(" · "));
    error.hidden = !error.textContent;
  });
  fill($("sinks-empty"), sinks.length ? null : "No sink has reported yet.");
  const parked = Object.values(status.closing).flatMap((task) => task.parked ?? []);
  keyed($("parked"), parked.slice(0, 8), (one) => JSON.stringify(one), (one) => {
    const name = one.message_id ?? one.window_id ?? one.id ?? "a revision";
    const row = h("div", "row", [cut(String(name), "mono"), h("span", "badge bad", `parked${one.sink ? ` · ${SINK_NAMES[one.sink] ?? one.sink}` : ""}`), h("span", "quiet", one.reason ?? "")]);
    return h("li", "", row);
  });
}

function letters(status) {
  const list = status.dead_letters;
  const reasons = {};
  for (const ledger of Object.values(status.audit.partitions)) {
    for (const [name, number] of Object.entries(ledger)) {
      if (name.startsWith("dead_lettered_") && number) reasons[name.slice(14)] = (reasons[name.slice(14)] ?? 0) + number;
    }
  }
  keyed($("reasons"), Object.entries(reasons).sort((a, b) => b[1] - a[1]), ([name]) => name, () => h("span", "badge calm"), (chip, [name, number]) => fill(chip, `${name.replaceAll("_", " ")} ${format.count(number)}`));
  keyed($("letters"), list, (letter) => `${letter.topic}/${letter.partition}/${letter.offset}/${letter.index}`, (letter) => {
    const place = `${letter.topic}[${letter.partition}] @${letter.offset}${letter.index ? ` #${letter.index}` : ""}`;
    const detail = h("span", "detail", letter.detail ?? "");
    detail.title = letter.detail ?? "";
    const origin = cut([letter.event_type, letter.event_id].filter(Boolean).join(" · ") || "no readable id", "quiet");
    const row = h("div", "row", [h("span", "badge bad", String(letter.reason).replaceAll("_", " ")), h("div", "", [detail, origin]), h("span", "quiet end", [document.createTextNode(letter.time ? format.time(letter.time, status.now_ms) : ""), h("br"), h("span", "mono", place)])]);
    return h("li", "", row);
  });
  const total = status.audit.total.dead_lettered;
  fill($("letters-count"), total ? format.count(total) : "");
  const away = total ? [h("b", "", `${format.count(total)} dead letters`), document.createTextNode("They lie in the dead-letter topic, with their original bytes.")] : [h("b", "", "None"), document.createTextNode("Every event could be read and understood.")];
  fill($("letters-empty"), list.length ? null : away);
}

function workers(status) {
  keyed($("workers"), status.workers, (worker) => worker.worker, (worker) => h("li", "", h("div", "row", [cut(format.host(worker.worker), "top"), h("span", "pill"), cut("", "quiet")])), (row, worker) => {
    const [, pill, note] = row.firstChild.children;
    pill.className = `pill ${worker.answered ? "good" : "bad"}`;
    fill(pill, worker.answered ? (worker.worker === status.asked ? "up · serves this page" : "up") : "silent");
    const owned = Object.entries(worker.owned ?? {}).map(([topic, list]) => `${topic} ${list.length ? ranges(list) : "–"}`).join(" · ");
    fill(note, worker.answered ? `${owned || "no partitions"}${worker.version ? ` · ${worker.version}` : ""}` : worker.reason);
    note.title = note.textContent;
  });
  fill($("workers-count"), status.workers.length > 1 ? String(status.workers.length) : "");
  fill($("workers-empty"), status.workers.length ? null : "No worker.");
}

/** [0,1,2,5] -> "0–2, 5". */
function ranges(list) {
  const sorted = [...list].sort((a, b) => a - b);
  const parts = [];
  for (let i = 0; i < sorted.length; i++) {
    const from = sorted[i];
    while (sorted[i + 1] === sorted[i] + 1) i++;
    parts.push(from === sorted[i] ? `${from}` : `${from}–${sorted[i]}`);
  }
  return parts.join(", ");
}
