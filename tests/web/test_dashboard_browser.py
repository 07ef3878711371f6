"""The dashboard, read in a real browser: what a person sees, and that nothing in the data can run."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.requirements import need
from tests.web.browser import CHROMIUM, Page, chromium
from tests.web.doubles import Json, MemoryView, a_closing_task, a_ledger, a_task, a_window, workers
from web.limits import Limits

LIMITS = Limits(live_interval_ms=50, peers_every_s=0.05, reconnect_s=0.05)
THIN = "\u2009"
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """A browser."""
    need(CHROMIUM is not None, "Chromium (apt-get install chromium)")
    async with chromium() as opened:
        yield opened


def _whole() -> MemoryView:
    return MemoryView(usage=[0, 1], partials=[0, 1])


def _document(window: Json) -> Json:
    return {name: value for name, value in window.items() if name != "state"}


def _row(text: str) -> str:
    """JavaScript: the row of the totals that holds `text`."""
    return f"[...document.querySelectorAll('#totals tbody tr')].find(r => r.innerText.includes({text!r}))"


async def test_before_the_first_event_it_says_what_it_waits_for(page: Page) -> None:
    async with workers(_whole(), limits=LIMITS) as (worker,):
        await page.open(worker.url)
        await page.until("document.querySelector('#pill').textContent === 'live'")
        await page.until("document.querySelector('#totals-empty').innerText.includes('Waiting for usage')")
        await page.until("document.querySelector('#revisions-empty').innerText")
        assert "No window has closed yet" in await page.text(".revisions")
        assert "None" in await page.text(".letters")
        assert "Balanced" in await page.text("#verdict")
        await page.until("document.querySelectorAll('#partitions tbody tr').length === 4")
    assert page.problems == []


async def test_running_totals_are_live_and_turn_from_provisional_to_final(page: Page) -> None:
    view = _whole()
    view.put(a_window("acme", value="1000", events=1))
    async with workers(view, limits=LIMITS) as (worker,):
        await page.open(worker.url)
        await page.until(f"{_row('acme')}.innerText.includes('1{THIN}000')")
        assert "provisional" in await page.text("#totals tbody")
        view.change(a_window("acme", value="98765432109876543210.5", events=2))
        await page.until(
            f"{_row('acme')}.innerText.includes('98{THIN}765{THIN}432{THIN}109{THIN}876{THIN}543{THIN}210.5')"
        )
        view.change(a_window("acme", value="98765432109876543210.5", events=2, state="closed", revision=1))
        await page.until(f"{_row('acme')}.innerText.includes('final · r1')")
        view.change(a_window("zeta", "calls", group={"model": "small"}))
        await page.until(f"{_row('zeta')}.innerText.includes('model: small')")
        view.change(a_window("acme", value="3", start="2026-01-31T12:01:00Z", window_end="2026-01-31T12:02:00Z"))
        await page.until(f"{_row('acme')}.innerText.includes('provisional')")
        assert await page.evaluate("document.querySelectorAll('#totals tbody tr').length") == 2, "one row a series"
    assert page.problems == []


async def test_nothing_in_the_data_can_run(page: Page) -> None:
    view = _whole()
    view.put(a_window(HOSTILE, group={HOSTILE: HOSTILE}))
    closed = a_window(HOSTILE, start="2026-01-31T11:59:00Z", revision=1, reason=HOSTILE, receipt={"watermark": HOSTILE})
    view.put({**closed, "state": "closed"})
    view.revisions = [_document(closed)]
    letter = {"reason": HOSTILE, "detail": HOSTILE, "topic": "usage", "partition": 0, "offset": 1, "index": 0}
    view.letters = [{**letter, "event_id": HOSTILE, "event_type": HOSTILE, "time": HOSTILE}]
    view.alarm_list = [{"kind": HOSTILE, "where": HOSTILE, "what": HOSTILE, "hint": HOSTILE}]
    view.sinks = {
        HOSTILE: {"state": HOSTILE, "error": HOSTILE, "retry_in_s": 1, "waiting": 0, "delivered": 0, "parked": 1}
    }
    view.closing["0"] = a_closing_task(parked=[{"message_id": HOSTILE, "reason": HOSTILE, "sink": HOSTILE}])
    async with workers(view, limits=LIMITS) as (worker,):
        await page.open(worker.url)
        await page.until(f"{_row('<img')}.innerText.includes('<script>')")
        await page.until("document.querySelector('#revisions button')")
        await page.evaluate("document.querySelector('#revisions button').click()")
        await page.until("document.querySelector('#receipt-body dl').innerText.includes('<script>')")
        for place in ("#notices", "#letters", "#sinks", "#parked", "#revisions"):
            assert HOSTILE in await page.evaluate(f"document.querySelector('{place}').textContent"), place
        assert await page.evaluate("document.querySelectorAll('main img, dialog img, main script').length") == 0
        assert await page.evaluate("window.hacked === undefined")
    assert page.problems == []


async def test_closed_windows_show_revision_delta_and_reason_and_open_their_receipt(page: Page) -> None:
    view = _whole()
    source = {"partition": 3, "events": 7, "first_offset": 77, "last_offset": 1234, "digest": "9f86d081884c7d65"}
    receipt = {"watermark": "2026-01-31T12:01:05Z", "sources": [source]}
    late = a_window("acme", revision=2, value="1500", delta="500", reason="late", receipt=receipt)
    view.put({**late, "state": "closed"})
    view.revisions = [_document(late), _document(a_window("zeta", revision=1, value="7", delta="7", reason="closed"))]
    async with workers(view, limits=LIMITS) as (worker,):
        await page.open(worker.url)
        await page.until("document.querySelectorAll('#revisions li').length === 2")
        text = await page.text("#revisions li")
        for part in ("acme", f"1{THIN}500", "r2 · late", "+500", "1 min"):
            assert part in text
        await page.evaluate("document.querySelector('#revisions button').click()")
        await page.until("document.querySelector('#receipt').open && document.querySelector('#receipt pre')")
        assert await page.text("#receipt tbody") == "3\t7\t77 – 1234\t9f86d081884c7d65"
        assert '"watermark"' in await page.evaluate("document.querySelector('#receipt pre').textContent")
        assert late["id"] in await page.text("#receipt")
    assert page.problems == []


async def test_the_ledger_is_an_equation_with_a_verdict(page: Page) -> None:
    view = _whole()
    view.ledgers = {
        "0": a_ledger(1000, duplicate=20, unmatched=3, dead_lettered=2, dead_lettered_too_late=2, late=5, keyless=9),
        "1": a_ledger(1),
    }
    view.metering["1"]["gaps"] = [{"from": 36, "to": 44, "accepted_at": "2026-01-31T12:00:00Z", "reason": "<b>lost"}]
    async with workers(view, limits=LIMITS) as (worker,):
        await page.open(worker.url)
        await page.until("document.querySelector('#verdict').innerText.includes('Balanced')")
        equation = (await page.text("#equation")).split("\n")
        assert equation[:5] == [f"1{THIN}026", "read", "=", f"1{THIN}001", "counted"]
        assert equation[5:] == ["+", "20", "duplicate", "+", "3", "unmatched", "+", "2", "dead letters"]
        assert "9 came without a key" in await page.text("#ledger-notes")
        assert "8 offsets were never counted, by decision: metering 1, 36 to 44 (<b>lost)" in await page.text(
            "#ledger-notes"
        )
        assert "too late 2" in await page.text("#reasons")
        view.ledgers["1"] = a_ledger(1, read=2)
        await page.until("document.querySelector('#verdict').innerText.includes('Out of balance')")
        assert "in partition 1" in await page.text("#verdict")
        assert "usage[1]: read 2 is not the sum" in await page.text("#notices")
        view.ledgers = {"0": a_ledger(1)}
        await page.until("document.querySelector('#verdict').innerText.includes('Not complete')")
    assert page.problems == []


async def test_trouble_is_on_top_restoring_stopped_retrying_and_parked(page: Page) -> None:
    view = _whole()
    view.metering["0"] = a_task(state="restoring", restored=0.42, lag=None, watermark=None)
    view.metering["1"] = a_task(state="stopped", reason="a gap", hint="replay")
    view.alarm_list = [{"kind": "stopped", "where": "usage[1]", "what": "usage[1] stopped: a gap", "hint": "replay it"}]
    error = "429 Too Many Requests"
    view.sinks = {
        "cosmos": {"state": "retrying", "error": error, "retry_in_s": 2.5, "waiting": 12, "delivered": 3, "parked": 1}
    }
    view.closing["0"] = a_closing_task(parked=[{"message_id": "m~1:1", "sink": "cosmos", "reason": "too large"}])
    async with workers(view, limits=LIMITS) as (worker,):
        await page.open(worker.url)
        await page.until("document.querySelector('#notices').innerText.includes('replay it')")
        assert "42 %" in await page.text("#restoring")
        assert "stopped" in await page.text("#partitions")
        sink = await page.text("#sinks")
        for part in ("Cosmos DB", "retrying", "12", error, "next try in 2.5 s"):
            assert part in sink
        assert "too large" in await page.text("#parked")
    assert page.problems == []


async def test_many_series_are_capped_and_filtered(page: Page) -> None:
    view = _whole()
    view.put(*(a_window(f"tenant-{n:03d}") for n in range(300)))
    async with workers(view, limits=LIMITS) as (worker,):
        await page.open(worker.url)
        await page.until("document.querySelector('#totals-more').innerText === '240 more'")
        assert await page.evaluate("document.querySelectorAll('#totals tbody tr').length") == 60
        await page.evaluate("document.querySelector('#totals-more').click()")
        await page.until("document.querySelectorAll('#totals tbody tr').length === 120")
        typed = "const f = document.querySelector('#filter'); f.value = 'tenant-29 API'; f.dispatchEvent(new Event('input'))"
        await page.evaluate(f"(() => {{ {typed} }})()")
        await page.until("document.querySelectorAll('#totals tbody tr').length === 10")
    assert page.problems == []


@pytest.mark.parametrize("width", [380, 820, 1440])
async def test_long_texts_never_widen_the_page(page: Page, width: int) -> None:
    view = _whole()
    endless = "a-subject-without-any-space-" * 18
    view.put(a_window(endless, value="9" * 20 + "." + "9" * 18, group={"model": "m" * 300}))
    view.revisions = [
        _document(a_window(endless, revision=2, value="-" + "9" * 40, delta="-" + "9" * 40, reason="late"))
    ]
    detail = {"reason": "invalid", "detail": "d" * 900, "topic": "usage", "partition": 0, "offset": 10**15, "index": 3}
    view.letters = [{**detail, "event_id": "e" * 900, "event_type": "t" * 500, "time": "2026-01-31T12:00:00Z"}]
    view.alarm_list = [{"kind": "x", "where": "y" * 400, "what": "w" * 700, "hint": "h" * 700}]
    async with workers(view, limits=LIMITS) as (worker,):
        await page.open(worker.url, width=width)
        await page.until("document.querySelector('#totals tbody tr') && document.querySelector('#letters li')")
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.problems == []


async def test_a_silent_peer_and_then_a_silent_worker_are_said_plainly(page: Page) -> None:
    left, right = MemoryView(usage=[0], partials=[0]), MemoryView(usage=[1], partials=[1])
    left.put(a_window("acme", value="77"))
    async with workers(left, right, limits=LIMITS) as (here, there):
        await page.open(here.url)
        await page.until("document.querySelector('#pill').textContent === 'live'")
        await page.until("document.querySelectorAll('#workers li').length === 2")
        await there.stop()
        await page.until("document.querySelector('#pill').textContent === 'live, without 1 worker'")
        await page.until("document.querySelector('#workers').innerText.includes('silent')")
        assert "partition 1" in await page.text("#notices")
        await here.stop()
        await page.until("document.querySelector('#notices').innerText.includes('has not answered since')")
        assert await page.text("#pill") == "no answer"
        assert "77" in await page.text("#totals tbody"), "what was last known stays"
