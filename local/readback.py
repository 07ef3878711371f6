"""Reads what came out: with the unmodified Azure SDKs and a Kafka consumer, as the customers of a deployment would.

The usage log (for the ledger), the dead letters, every invoice message, every Cosmos document in every region.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from azure.cosmos.aio import CosmosClient

from local.checking import Message
from local.reading import Record
from settings import Settings
from sinks.receiving import InvoiceMessage, receive
from transport.client import client_options

PAGE = 1000
RECEIVERS = 8


class UsageLog:
    """The usage topic from its beginning: `async with UsageLog(settings, partitions)`; `read` gives what is new."""

    def __init__(self, settings: Settings, topic: str, partitions: int) -> None:
        self._places = [TopicPartition(topic, number) for number in range(partitions)]
        self._settings = settings

    async def __aenter__(self) -> UsageLog:
        self._consumer = AIOKafkaConsumer(**client_options(self._settings), enable_auto_commit=False)
        await self._consumer.start()
        self._consumer.assign(self._places)
        await self._consumer.seek_to_beginning(*self._places)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def read(self) -> AsyncIterator[Record]:
        """Every record that is there now and was not read yet; each partition in offset order."""
        ends: Mapping[TopicPartition, int] = await self._consumer.end_offsets(self._places)
        waiting = set()
        for place, end in ends.items():
            if await self._consumer.position(place) < end:
                waiting.add(place)
        while waiting:
            batches = await self._consumer.getmany(*waiting, timeout_ms=500, max_records=2000)
            for place, records in batches.items():
                for record in records:
                    yield Record(place.partition, record.offset, record.timestamp, record.value, tuple(record.headers))
            for place in list(waiting):
                end = max(ends[place], self._consumer.highwater(place) or 0)  # Tansu lists the end too low
                if await self._consumer.position(place) >= end:
                    waiting.remove(place)


async def dead_letters(settings: Settings) -> dict[tuple[int, int, int], str]:
    """(partition, offset, index) -> reason, of every dead letter of the usage topic; written twice is no second one."""
    found = {}
    async with UsageLog(settings, settings.dead_letters_topic, 1) as log:
        async for record in log.read():
            letter = orjson.loads(record.value or b"{}")
            if letter.get("topic") == settings.usage_topic:
                found[letter["partition"], letter["offset"], letter["index"]] = str(letter["reason"])
    return found


async def messages(settings: Settings) -> list[Message]:
    """Every message of the invoicing queue, completed; in the order received, which is the order within a session."""
    found: list[Message] = []

    def keep(message: InvoiceMessage) -> None:
        found.append(Message(message.message_id, message.session_id, message.body, message.raw))

    await receive(settings, keep, sessions=RECEIVERS, wait_s=2.0)
    return found


async def documents(settings: Settings, endpoint: str, container: str) -> list[dict[str, Any]]:
    """Every item of a container as one region has it: `endpoint` is asked, and nobody else."""
    async with _region(settings, endpoint) as client:
        items = (
            client.get_database_client(settings.cosmos_database)
            .get_container_client(container)
            .read_all_items(max_item_count=PAGE)
        )
        return [dict(item) async for item in items]


async def regions(
    settings: Settings, endpoints: tuple[str, ...], container: str, count: int, timeout_s: float
) -> list[list[dict[str, Any]]]:
    """The items of every region, once each has at least `count` (replication is asynchronous), or as they are then."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        found = [await documents(settings, endpoint, container) for endpoint in endpoints]
        if _settled(found, count) or asyncio.get_running_loop().time() > deadline:
            return found
        await asyncio.sleep(0.2)


def _settled(found: list[list[dict[str, Any]]], count: int) -> bool:
    marks = [{(item["id"], item["revision"]) for item in region} for region in found]
    return all(len(mark) >= count for mark in marks) and all(mark == marks[0] for mark in marks)


@asynccontextmanager
async def _region(settings: Settings, endpoint: str) -> AsyncIterator[CosmosClient]:
    assert settings.cosmos_key is not None
    # Without discovery the client stays with the endpoint it was given, instead of asking the account's first region.
    async with CosmosClient(endpoint, settings.cosmos_key, enable_endpoint_discovery=False) as client:
        yield client
