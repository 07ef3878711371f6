"""The five topics of a deployment, created over Kafka where a broker lets us (never on Azure, design §8)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from schemas.errors import BrokerError, ConfigurationError
from settings import Settings
from transport.client import client_options, diagnose

_DAY_MS = 86_400_000
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as it should be. `config`: Kafka topic configuration, by its Kafka names."""

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)


def wanted_topics(settings: Settings, usage_partitions: int, partials_partitions: int) -> tuple[Topic, ...]:
    """The five topics (design §1, §6): a changelog has as many partitions as the topic whose state it holds.

    The usage topic carries append time: whether an event is too far in the future is judged by its record's own
    timestamp, which no producer may choose (design §3). Changelogs need retention, not compaction (design §2.2).
    """
    week = {"retention.ms": str(7 * _DAY_MS), "cleanup.policy": "delete"}
    return (
        Topic(settings.usage_topic, usage_partitions, {**week, "message.timestamp.type": "LogAppendTime"}),
        Topic(settings.partials_topic, partials_partitions, week),
        Topic(settings.metering_state_topic, usage_partitions, week),
        Topic(settings.closing_state_topic, partials_partitions, week),
        Topic(settings.dead_letters_topic, 1, {**week, "retention.ms": str(30 * _DAY_MS)}),
    )


async def ensure_topics(
    settings: Settings, usage_partitions: int = 4, partials_partitions: int = 4, *, timeout_s: float = 30.0
) -> None:
    """Create what is missing, and return once every topic's partitions have a leader. Idempotent.

    Raises ConfigurationError where a topic exists with another partition count (both numbers, and what to do), and what
    `transport.client.diagnose` makes of a broker that cannot be used.
    """
    wanted = wanted_topics(settings, usage_partitions, partials_partitions)
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        existing = await partition_counts(admin)
        _refuse_mismatch(wanted, existing, settings)
        missing = [topic for topic in wanted if topic.name not in existing]
        if missing:
            await _create(admin, missing, settings)
        await asyncio.wait_for(_until_led(admin, wanted, settings), timeout_s)
    except (errors.KafkaError, OSError) as error:
        raise await diagnose(error, settings) from error
    finally:
        await admin.close()


async def partition_counts(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """Topic -> number of partitions, of all topics of the broker. `admin` is started."""
    return {name: len(partitions) for name, partitions in (await _describe(admin)).items()}


async def _describe(admin: AIOKafkaAdminClient) -> dict[str, list[dict[str, Any]]]:
    # All topics, never by name: asking for a name creates it on a broker that may create topics by itself.
    found = await admin.describe_topics(None)
    return {topic["topic"]: topic["partitions"] for topic in found if topic["error_code"] == 0}


async def _create(admin: AIOKafkaAdminClient, missing: list[Topic], settings: Settings) -> None:
    replicas = min(3, len((await admin.describe_cluster())["brokers"]))
    response = await admin.create_topics(
        [NewTopic(topic.name, topic.partitions, replicas, topic_configs=topic.config) for topic in missing]
    )
    for name, code, *message in response.topic_errors:
        error = errors.for_code(code)
        if error in (errors.NoError, errors.TopicAlreadyExistsError):  # somebody else was quicker: counted below
            continue
        if error in (errors.TopicAuthorizationFailedError, errors.ClusterAuthorizationFailedError):
            raise ConfigurationError(
                f"topic {name!r} does not exist and this key may not create it",
                where="METERLINE_…_TOPIC",
                hint="create the event hubs with the portal, the CLI or a template, as a deployment does",
            )
        raise BrokerError(f"topic {name!r} could not be created: {error.__name__} {' '.join(filter(None, message))}")


async def _until_led(admin: AIOKafkaAdminClient, wanted: tuple[Topic, ...], settings: Settings) -> None:
    while True:
        found = await _describe(admin)
        led = {name: all(p["leader"] >= 0 and p["error_code"] == 0 for p in parts) for name, parts in found.items()}
        if all(led.get(topic.name) for topic in wanted):
            _refuse_mismatch(wanted, {name: len(parts) for name, parts in found.items()}, settings)
            return
        await asyncio.sleep(_POLL_S)


def _refuse_mismatch(wanted: tuple[Topic, ...], existing: dict[str, int], settings: Settings) -> None:
    for topic in wanted:
        count = existing.get(topic.name, topic.partitions)
        if count != topic.partitions:
            raise ConfigurationError(
                f"topic {topic.name!r} has {count} partitions, {topic.partitions} were asked for",
                where="partition counts",
                hint="partition counts never change in place: ask for the count it has, or use new topic names "
                f"and a new METERLINE_APP_ID (now {settings.app_id!r}) together",
            )
