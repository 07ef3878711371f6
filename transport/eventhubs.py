"""The `eventhubs://` Faust transport: one Faust message per fetched batch, and no commit but ours.

Differs from Faust's aiokafka transport (`faust/transport/drivers/aiokafka.py`, 0.15.3) in four things:

- All records a fetch brought of one partition arrive as one message whose value is a `Batch`. Faust's per-record path is
  what limits it to some 5 thousand events/s.
- Faust commits nothing: `_commit` does nothing and says it did. Its commits run past unprocessed messages (faust #606)
  and follow a flush that returns early; ours are in `strict_commit`, sent once, under the assignment's own membership.
- A batch says where its fetch began, so that whoever folds it can see a gap. Faust may drop a fetched batch around a
  rebalance, and its own bookkeeping then hides that.
- The group learns every worker's URL (`transport/membership.py`).

Transactions of producers are not looked at: what a transaction aborted is read like everything else (Event Hubs Standard
has none).

A batch is handed on only by the epoch of the assignment; one that was in flight over a rebalance carries the new epoch and
is judged by its offsets: the first that does not begin where the state ends is refused (design §2.4).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.errors import ConsumerStoppedError, KafkaError, for_code
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.structs import ConsumerRecord
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from schemas.errors import CommitRefused
from schemas.records import Batch, PackedRecords
from transport.fetching import fetch_packed
from transport.membership import Membership, Owners, directory_assignor
from transport.throttling import Throttling

if TYPE_CHECKING:
    from transport.entra import EntraTokens

T = TypeVar("T")

log = logging.getLogger("meterline.broker")

COMMIT_MARGIN_S = 60.0
"""So long before its token expires a connection is not used for commits any more."""

NOT_TAKEN_S = 0.02
"""How often it is asked again whether a partition is wanted that was not."""


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread, which fetches batches, knows its membership and commits strictly.

    takes: whether batches of a partition are wanted now (the app's `takes`), asked in this thread at every fetch. What is
    not wanted stays in aiokafka's buffer, at most one fetch per partition.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.membership: Membership | None = None
        self.epoch = 0
        self.ending = False
        self.takes: Callable[[str, int], bool] = getattr(self.app, "takes", lambda _topic, _partition: True)
        self.throttling: Throttling = getattr(self.app, "throttling", None) or Throttling()
        self.tokens: EntraTokens | None = getattr(self.app, "tokens", None)
        self._expiry: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._ends: dict[TopicPartition, int] = {}
        self._assignor_class = directory_assignor(getattr(self.app, "advertised_url", ""))

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._partition_assignment_strategy = [self._assignor_class]
        return consumer

    @property
    def owners(self) -> Owners:
        """Who owned what as of this member's last assignment."""
        owners: Owners = self._assignor_class.owners
        return owners

    def joined(self) -> None:
        """An assignment begins: remember the membership it belongs to. Called in the consumer's thread."""
        coordinator = self._ensure_consumer()._coordinator
        self.membership = Membership(self.epoch, coordinator.generation, coordinator.member_id)

    def left(self) -> None:
        """The assignment is over: every rebalance revokes all (eager protocol). Called in the consumer's thread."""
        self.epoch += 1
        self.membership = None
        self._ends.clear()

    async def in_thread(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine in the consumer's own loop. Not through Faust's method queue, where a fetch would hold it up."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.thread_loop))

    async def strict_commit(self, topic: str, partition: int, offset: int, membership: Membership) -> None:
        """Commits one offset, once, as `membership`. Raises CommitRefused for everything but a good answer."""
        await self.in_thread(self._strict_commit(topic, partition, offset, membership))

    async def committed(self, topic: str, partition: int) -> int | None:
        """The group's committed offset, asked from the coordinator; None where there is none."""
        offset: int | None = await self.in_thread(self._ensure_consumer().committed(TopicPartition(topic, partition)))
        return offset

    def end_seen(self, topic: str, partition: int) -> int | None:
        """The end of a partition as its last fetch saw it; None before any fetch, or where it is not assigned.

        Where only control records follow what was handed on, that is the end: they will never come as a batch.
        """
        consumer, tp = self._ensure_consumer(), TopicPartition(topic, partition)
        if tp not in consumer.assignment():
            return None
        end: int | None = consumer.highwater(tp)
        handed_on = self._ends.get(tp)
        if end is not None and handed_on is not None and handed_on < end:
            state = consumer._subscription.subscription.assignment.state_value(tp)
            if state.has_valid_position and state.position >= end:
                return handed_on
        return end

    async def leave(self) -> None:
        """Leaves the group and fetches nothing more; the consumer stays, since Faust takes a closed one for a crash."""
        self.ending = True
        await self.in_thread(self._ensure_consumer()._coordinator.close())

    async def _strict_commit(self, topic: str, partition: int, offset: int, membership: Membership) -> None:
        coordinator = self._ensure_consumer()._coordinator
        request = OffsetCommitRequest(
            coordinator.group_id,
            membership.generation,
            membership.member_id,
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            [(topic, [(partition, offset, "")])],
        )
        what = f"the commit of {topic}[{partition}] at {offset}, generation {membership.generation},"
        self._renew(coordinator)
        try:
            response = await coordinator._send_req(request)
        except KafkaError as error:
            raise CommitRefused(f"{what} got no answer ({type(error).__name__})") from error
        self.throttling.answered("commit", response)
        for _, results in response.topics:
            for _, code in results:
                if code:
                    raise CommitRefused(f"{what} was refused: {for_code(code).__name__}")

    def _renew(self, coordinator: Any) -> None:
        """Lets go of a connection to the coordinator whose token is about to expire: a commit over it might get no answer."""
        connection = coordinator._client._conns.get((coordinator.coordinator_id, ConnectionGroup.COORDINATION))
        if self.tokens is None or connection is None:
            return
        expires_s = self._expiry.setdefault(connection, self.tokens.expires_s)
        if time.time() > expires_s - COMMIT_MARGIN_S and not connection._requests:
            connection.close()

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Faust's seek after a rebalance; where the next fetch begins is what was committed."""
        return await self.in_thread(self._seek_to_committed())

    async def _seek_to_committed(self) -> Mapping[TP, int]:
        # Not aiokafka's own: it does not seek where 0 is committed (consumer.py: `if offset and offset > 0`), as every
        # first act does, and a fetch that was in flight over the rebalance and dropped would be a silent gap.
        consumer = self._ensure_consumer()
        offsets: dict[TP, int] = {}
        for tp in consumer.assignment():
            offset = await consumer.committed(tp)
            if offset is None:
                await consumer.seek_to_beginning(tp)
            else:
                consumer.seek(tp, offset)
                self._ends[tp] = offset
                offsets[tp] = offset
        return offsets

    async def _fetch_records(
        self,
        consumer: AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: Any = None,
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        if not self.consumer.flow_active:
            return {}
        if self.ending:
            await asyncio.sleep(timeout or 1.0)
            return {}
        try:
            return await self._fetch_batches(consumer, active_partitions, timeout or 0.0)
        except ConsumerStoppedError:
            raise  # Faust's own end of fetching
        except Exception as error:  # out of here it would crash this thread, and the app's loop with it
            self._fetch_failed(error)
            return {}

    def _fetch_failed(self, error: Exception) -> None:
        """The worker starts over; until then nothing more is fetched. Called in the consumer's thread, once."""
        self.ending = True
        known = isinstance(error, KafkaError)
        if not known:
            log.error("a fetch failed", exc_info=error)
        why = f"a fetch failed: {error if known else f'{type(error).__name__}: {error}'}"
        self.parent_loop.call_soon_threadsafe(self.app.start_over.request, why)

    async def _fetch_batches(
        self, consumer: AIOKafkaConsumer, active: set[TP], timeout_s: float
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """One message per partition of which a fetch brought something. Raises what a fetch raises."""
        fetched = await self._fetch_taken(consumer, active, time.monotonic() + timeout_s)
        epoch = self.epoch
        starts: dict[TopicPartition, tuple[int, int | None]] = {}
        for tp, records in fetched.items():  # all of them before the first await: a rebalance may come in between
            starts[tp] = records.offsets[0], self._ends.get(tp)
            self._ends[tp] = records.offsets[-1] + 1
        batches = {}
        for tp, (first, expected) in starts.items():
            start = first
            if expected is not None and expected < first:
                # A hole in the offsets is nothing (control records of transactions) unless the log itself was cut there.
                begin = (await consumer.beginning_offsets([tp]))[tp]
                start = expected if begin <= expected else first
            batches[tp] = [_one_message(tp, start, fetched[tp])]
        return batches if self.epoch == epoch else {}

    async def _fetch_taken(
        self, consumer: AIOKafkaConsumer, active: set[TP], deadline_s: float
    ) -> dict[TopicPartition, PackedRecords]:
        """What fetches brought of the partitions that are wanted; one that was not is asked for again and again."""
        while True:
            left_s = max(0.0, deadline_s - time.monotonic())
            taken = {tp for tp in active if self.takes(tp.topic, tp.partition)}
            wait_s = left_s if len(taken) == len(active) else min(left_s, NOT_TAKEN_S)
            if taken:
                fetched = await fetch_packed(consumer, taken, wait_s, self.throttling)
            else:  # aiokafka takes none for all
                fetched = {}
                with consumer._subscription.fetch_context():  # or it leaves the group for not being polled
                    await asyncio.sleep(wait_s or NOT_TAKEN_S)
            if fetched or wait_s == left_s or not self.consumer.flow_active:
                return fetched


def _one_message(tp: TopicPartition, start: int, records: PackedRecords) -> ConsumerRecord:
    """All records of one fetch as one record, whose value is the batch and whose offset is the last one's."""
    last = records.offsets[-1]
    return ConsumerRecord(
        topic=tp.topic,
        partition=tp.partition,
        offset=last,
        timestamp=records.timestamps_ms[-1],
        timestamp_type=1,
        key=None,
        value=Batch(start, last + 1, records),
        checksum=None,
        serialized_key_size=0,
        serialized_value_size=0,
        headers=(),
    )


class RebalanceListener(driver.ConsumerRebalanceListener):  # type: ignore[misc]
    """Faust's listener; the membership changes before anything else is told."""

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> Any:
        """The assignment is over."""
        self._thread.left()
        return super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """An assignment begins."""
        self._thread.joined()
        await super().on_partitions_assigned(assigned)


class Consumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer on our thread, without commits."""

    RebalanceListener = RebalanceListener

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        return True  # nothing else commits (design §2.4)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Through our thread, which notes where the next fetch begins."""
        return await self.kafka_thread.seek_to_committed()

    @property
    def kafka_thread(self) -> ConsumerThread:
        """The thread that fetches and commits."""
        return cast(ConsumerThread, self._thread)


class Transport(driver.Transport):  # type: ignore[misc]
    """`eventhubs://host:port`: Kafka and Event Hubs, batched and strict."""

    Consumer = Consumer
    driver_version = f"{driver.Transport.driver_version} (batched, strict commit)"
