"""`GET /metrics` exports the ledger, the lag and the outbox of this worker, in Prometheus' own format."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.web.doubles import MemoryView, Worker, a_closing_task, a_ledger, a_task, workers


def _busy_view() -> MemoryView:
    view = MemoryView(usage=[0, 1], partials=[0, 1])
    view.ledgers["0"] = a_ledger(10, duplicate=2, dead_lettered=3, dead_lettered_invalid=2, late=1, keyless=4)
    view.ledgers["1"] = a_ledger(10, read=11)
    view.metering["0"] = a_task(lag=5, watermark="2026-01-31T12:09:30.500Z")
    view.metering["0"]["gaps"] = [{"from": 36, "to": 44}, {"from": 50, "to": 51}]
    view.metering["1"] = a_task(state="restoring", restored=0.5, watermark=None, lag=None)
    view.closing["0"] = a_closing_task(
        revisions=9, windows_open=3, outbox={"cosmos": 2}, delivered={"cosmos": 7}, parked=[{"id": "x"}]
    )
    view.sinks = {"cosmos": {"state": "retrying"}, "servicebus": {"state": "unconfigured"}}
    view.alarm_list = [{"kind": "stopped", "where": "a"}, {"kind": "stopped", "where": "b"}]
    return view


async def _samples(worker: Worker) -> dict[tuple[str, ...], float]:
    async with worker.http.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        families = parse_text(await response.text())
        return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}


async def test_the_ledger_is_exported_per_partition_and_reason() -> None:
    async with workers(_busy_view()) as (worker,):
        samples = await _samples(worker)
    assert samples["meterline_events_read_total", "0"] == 15
    assert samples["meterline_events_counted_total", "0"] == 10
    assert samples["meterline_events_duplicate_total", "0"] == 2
    assert samples["meterline_events_late_total", "0"] == 1
    assert samples["meterline_events_keyless_total", "0"] == 4
    assert samples["meterline_events_dead_lettered_total", "0", "invalid"] == 2
    assert samples["meterline_events_dead_lettered_total", "0", "other"] == 1
    assert samples["meterline_ledger_balanced", "0"] == 1
    assert samples["meterline_ledger_balanced", "1"] == 0


async def test_lag_watermark_outbox_sinks_and_alarms_are_exported() -> None:
    async with workers(_busy_view()) as (worker,):
        samples = await _samples(worker)
    assert samples["meterline_lag_records", "0", "metering"] == 5
    assert samples["meterline_watermark_lag_seconds", "0", "metering"] == 29.5
    assert ("meterline_watermark_lag_seconds", "1", "metering") not in samples
    assert samples["meterline_restored_ratio", "1", "metering"] == 0.5
    assert samples["meterline_gap_offsets", "0", "metering"] == 9
    assert samples["meterline_gap_offsets", "0", "closing"] == 0
    assert samples["meterline_partition_state", "1", "metering", "restoring"] == 1
    assert samples["meterline_partition_state", "1", "metering", "running"] == 0
    assert samples["meterline_revisions_total", "0"] == 9
    assert samples["meterline_outbox_waiting", "0", "cosmos"] == 2
    assert samples["meterline_delivered_total", "0", "cosmos"] == 7
    assert samples["meterline_parked", "0"] == 1
    assert samples["meterline_sink_up", "cosmos"] == 0
    assert ("meterline_sink_up", "servicebus") not in samples
    assert samples["meterline_alarms", "stopped"] == 2


async def test_throttling_is_exported_by_request() -> None:
    view = _busy_view()
    view.throttled = {
        "delayed": {"fetch": 3},
        "delayed_s": {"fetch": 1.5},
        "refused": 2,
        "refused_s": 4.0,
        "waiting": 1,
    }
    async with workers(view) as (worker,):
        samples = await _samples(worker)
    assert samples["meterline_throttled_requests_total", "fetch"] == 3
    assert samples["meterline_throttled_seconds_total", "fetch"] == 1.5
    assert samples["meterline_throttled_requests_total", "refused_produce"] == 2
    assert samples["meterline_throttled_seconds_total", "refused_produce"] == 4
    assert samples["meterline_throttled_waiting",] == 1


async def test_openmetrics_is_spoken_where_it_is_asked_for() -> None:
    async with workers(_busy_view()) as (worker,):
        async with worker.http.get(
            "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
        ) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            names = {family.name for family in parse_openmetrics(await response.text())}
    assert "meterline_events_read" in names


async def test_two_workers_in_one_process_do_not_share_a_registry() -> None:
    left, right = MemoryView(usage=[0]), MemoryView(usage=[1])
    async with workers(left, right) as (here, there):
        assert ("meterline_events_read_total", "1") not in await _samples(here)
        assert ("meterline_events_read_total", "1") in await _samples(there)
