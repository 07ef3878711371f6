"""A deployment's partitions from outside its group: for mending, while no worker runs.

Kafka lets somebody who is no member commit a group's offsets as long as the group has none. So a commit from here is sent
once, without a generation, and its refusal means that a worker runs.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    CoordinatorNotAvailableError,
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
    for_code,
)
from aiokafka.protocol.commit import OffsetCommitRequest

from schemas.errors import BrokerError, CommitRefused, ConfigurationError
from settings import Settings
from tables.effects import At, Commit, Effect, Produce, ReadBounds, ReadCommitted, ReadLog, ReadRecords
from transport.broker import Broker, LogReader
from transport.client import client_options, diagnose

NO_GENERATION, NO_MEMBER = -1, ""
_COORDINATOR_S, _COORDINATOR_TRIES = 0.5, 20
"""A broker that has just started takes a moment until it knows its groups."""


class Outside:
    """`async with Outside(settings) as outside`: what the group has committed, who is in it, and performers of partitions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.broker = Broker(settings, lambda: None)
        self.reader = LogReader(settings)
        self._admin = AIOKafkaAdminClient(**client_options(settings))
        self._coordinator = -1

    async def __aenter__(self) -> Outside:
        try:
            await self.broker.start()
            await self.reader.open()
            await self._admin.start()
            self._coordinator = await self._find_coordinator()
        except KafkaError as error:
            await self.__aexit__()
            raise await diagnose(error, self._settings) from error
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()
        await self.reader.close()
        await self.broker.stop()

    async def members(self) -> int:
        """How many workers are in the group now; 0 too where the broker does not tell: a commit still would."""
        try:
            answers = await self._admin.describe_consumer_groups(
                [self._settings.app_id], group_coordinator_id=self._coordinator
            )
        except KafkaError:
            return 0
        return sum(len(group[5]) for answer in answers for group in answer.groups)

    async def must_be_empty(self) -> None:
        """Raises ConfigurationError while a worker runs."""
        members = await self.members()
        if members:
            raise self._running(f"{members} of its workers {'runs' if members == 1 else 'run'}")

    async def committed(self, topic: str, partition: int) -> int | None:
        """The group's committed offset; None where there is none."""
        tp = TopicPartition(topic, partition)
        try:
            found = await self._admin.list_consumer_group_offsets(self._settings.app_id, self._coordinator, [tp])
        except KafkaError as error:
            raise BrokerError(f"the offsets of {self._settings.app_id} could not be read: {error}") from error
        return found[tp].offset if tp in found and found[tp].offset >= 0 else None

    async def commit(self, topic: str, partition: int, offset: int) -> None:
        """Commits one offset, once. Raises ConfigurationError while a worker runs, else CommitRefused."""
        request = OffsetCommitRequest(
            self._settings.app_id,
            NO_GENERATION,
            NO_MEMBER,
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            [(topic, [(partition, offset, "")])],
        )
        what = f"the commit of {topic}[{partition}] at {offset}"
        try:
            response = await self._admin._send_request(request, self._coordinator)
        except KafkaError as error:
            raise CommitRefused(f"{what} got no answer ({type(error).__name__})", hint="run it again") from error
        for _, results in response.topics:
            for _, code in results:
                refusal = for_code(code)
                if refusal in (UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError):
                    raise self._running(f"{what} was refused: {refusal.__name__}")
                if code:
                    raise CommitRefused(f"{what} was refused: {refusal.__name__}", hint="run it again")

    def performer(self, topic: str, partition: int) -> OutsidePerformer:
        """Performs the effects of one source partition."""
        return OutsidePerformer(self, topic, partition)

    def _running(self, what: str) -> ConfigurationError:
        app_id = self._settings.app_id
        return ConfigurationError(
            f"the group {app_id!r} is not empty: {what}",
            where="METERLINE_APP_ID",
            hint=f"stop the workers of app id {app_id!r} first; those that were killed leave with their session "
            f"(METERLINE_SESSION_TIMEOUT_S, {self._settings.session_timeout_s:.0f} s)",
        )

    async def _find_coordinator(self) -> int:
        for _ in range(_COORDINATOR_TRIES):
            try:
                found: int = await self._admin.find_coordinator(self._settings.app_id)
                return found
            except CoordinatorNotAvailableError:
                await asyncio.sleep(_COORDINATOR_S)
        raise BrokerError(f"the broker names no coordinator for group {self._settings.app_id!r}", hint="try again")


class OutsidePerformer:
    """The effects of one source partition, and reads of the others."""

    def __init__(self, outside: Outside, topic: str, partition: int) -> None:
        self._outside = outside
        self._topic = topic
        self._partition = partition

    async def perform(self, effect: Effect) -> Any:
        """The effect's result, as `tables/effects.py` promises. Raises BrokerError."""
        outside, partition = self._outside, self._partition
        match effect:
            case Produce(records):
                return await outside.broker.produce(records)
            case Commit(offset):
                return await outside.commit(self._topic, partition, offset)
            case ReadCommitted():
                return await outside.committed(self._topic, partition)
            case ReadBounds(topic):
                return await outside.reader.bounds(topic, partition)
            case ReadLog(topic, offset, end):
                return await outside.reader.read(topic, partition, offset, end)
            case ReadRecords(topic, offset, end):
                return await outside.reader.records(topic, partition, offset, end)
            case At(topic, other, there):
                return await outside.performer(topic, other).perform(there)
