"""The Faust shell: two thin agents, and what Faust tells of assignments. Everything else is in `streams/worker.py`."""

from __future__ import annotations

from typing import Any

from schemas.records import Batch
from streams.worker import Worker
from transport.eventhubs import ConsumerThread


def install(app: Any, worker: Worker, usage_topic: str, partials_topic: str) -> None:
    """Puts METERING's and CLOSING's agents on a Faust app and wires its rebalances to the worker.

    Agents have concurrency 1 and acks off: what was consumed is what a checkpoint committed, nothing else (design §2.4).
    """
    usage = app.topic(
        usage_topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", acks=False
    )
    partials = app.topic(
        partials_topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", acks=False
    )

    async def metering(stream: Any) -> None:
        async for event in stream.events():
            await _hand_on(worker, app, event)

    async def closing(stream: Any) -> None:
        async for event in stream.events():
            await _hand_on(worker, app, event)

    app.agent(usage, name="metering")(metering)
    app.agent(partials, name="closing")(closing)

    async def assigned(_app: Any, partitions: Any, **_: Any) -> None:
        _take_over(worker, app, partitions)

    async def revoked(_app: Any, _partitions: Any, **_: Any) -> None:
        await worker.revoked()

    app.on_partitions_assigned.connect(assigned, weak=False)
    app.on_partitions_revoked.connect(revoked, weak=False)


def consumer_thread(app: Any) -> ConsumerThread | None:
    """The thread that fetches for this app, or None before Faust has started it."""
    consumer = getattr(app, "_consumer", None)
    return consumer.kafka_thread if consumer is not None else None


async def _hand_on(worker: Worker, app: Any, event: Any) -> None:
    batch = event.value
    assert isinstance(batch, Batch), "the eventhubs:// transport hands on batches"
    tp = event.message.tp
    if worker.membership is None and not worker.stopping:
        # Faust may let messages flow before its assigned signal: the assignment itself is known to the thread.
        thread = consumer_thread(app)
        if thread is not None and thread.membership is not None:
            _take_over(worker, app, app.consumer.assignment())
    await worker.offer(tp.topic, tp.partition, batch)


def _take_over(worker: Worker, app: Any, partitions: Any) -> None:
    thread = consumer_thread(app)
    membership = thread.membership if thread is not None else None
    if membership is not None:
        worker.assigned([(tp.topic, tp.partition) for tp in partitions], membership)
