"""What `check` thinks of what it found: pure functions from facts to verdicts. The probes are in `cli/probes.py`.

Sources of the rules: design.md §2.2 and §6 (changelogs have the partitions of what they save, need retention and no
compaction), §3 (append time), §2.7 (sessions, duplicate detection, LWW on /revision), issue of `check`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from schemas.errors import MeterlineError
from settings import Settings

Status = Literal["ok", "note", "unknown", "failed"]
"""ok: as it must be · note: works, with a consequence · unknown: could not be verified · failed: must be mended."""

RETENTION_MIN_MS = 2 * 86_400_000
"""Snapshots of the changelogs roll at least daily (design §2.2): a chain from one reaches back a day and more."""

DUPLICATE_WINDOW_MIN_S = 60.0
"""A resend after a crash comes within session timeout, recovery and backoff."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table. area: `broker|servicebus|cosmos`. mend: what to do, empty where nothing is to be done."""

    area: str
    what: str
    status: Status
    found: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class KafkaFacts:
    """What the broker said. error: why nothing more is known. configs: topic -> configuration, None where not told.

    appended: whether the newest usage record carries append time; None where there is no record. laptop: it is the
    local stack's broker.
    """

    where: str
    error: MeterlineError | None = None
    partitions: Mapping[str, int] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, str]] | None = None
    appended: bool | None = None
    laptop: bool = False


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What is known of the queue. None: could not be seen. by: `management` or `amqp`, how it was seen."""

    where: str
    error: MeterlineError | None = None
    exists: bool | None = None
    sessions: bool | None = None
    duplicate_detection: bool | None = None
    duplicate_window_s: float | None = None
    by: Literal["management", "amqp"] = "amqp"
    unseen: str = ""


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """A container's definition, as far as it matters."""

    partition_paths: tuple[str, ...]
    conflict_mode: str
    conflict_path: str


@dataclass(frozen=True, slots=True)
class CosmosFacts:
    """What the account said. containers: name -> definition, None where it does not exist."""

    where: str
    error: MeterlineError | None = None
    write_regions: tuple[str, ...] = ()
    database_exists: bool = False
    containers: Mapping[str, ContainerFacts | None] = field(default_factory=dict)


def failed(verdicts: Iterable[Verdict]) -> bool:
    """Whether anything must be mended."""
    return any(verdict.status == "failed" for verdict in verdicts)


def judge_kafka(facts: KafkaFacts, settings: Settings) -> list[Verdict]:
    """Reachability and authentication, the five topics, their partition counts, append time, the changelogs' keeping."""
    if facts.error is not None:
        return [_broken("broker", facts.where, facts.error)]
    verdicts = [Verdict("broker", "reachable, key accepted", "ok", facts.where)]
    connection = settings.eventhubs()
    if connection is not None and connection.entity_path:
        verdicts.append(
            Verdict(
                "broker",
                "connection string",
                "failed",
                f"it is of one event hub ({connection.entity_path}), five are used",
                "use the connection string of the namespace (no EntityPath), with Send and Listen",
            )
        )
    verdicts += [_topic(name, facts) for name in settings.topics]
    verdicts.append(_pair(settings.usage_topic, settings.metering_state_topic, facts))
    verdicts.append(_pair(settings.partials_topic, settings.closing_state_topic, facts))
    if settings.usage_topic in facts.partitions:
        verdicts.append(_append_time(facts, settings))
    for name in (settings.metering_state_topic, settings.closing_state_topic):
        if facts.configs and facts.configs.get(name):
            verdicts.append(_keeping(name, facts.configs[name]))
    return verdicts


def judge_queue(facts: QueueFacts, settings: Settings) -> list[Verdict]:
    """Reachability and authentication, the queue, sessions, duplicate detection."""
    if facts.error is not None:
        return [_broken("servicebus", facts.where, facts.error)]
    name = settings.servicebus_queue
    how = f"seen over {'the management API' if facts.by == 'management' else 'AMQP'}"
    if not facts.exists:
        return [
            Verdict("servicebus", "reachable, key accepted", "ok", facts.where),
            Verdict(
                "servicebus",
                f"queue {name}",
                "failed",
                f"does not exist ({how})",
                f"az servicebus queue create --name {name} --enable-session true --enable-duplicate-detection true "
                "--resource-group … --namespace-name …, or correct METERLINE_SERVICEBUS_QUEUE",
            ),
        ]
    return [
        Verdict("servicebus", "reachable, key accepted", "ok", facts.where),
        Verdict("servicebus", f"queue {name}", "ok", f"exists ({how})"),
        _sessions(facts, name, how),
        _duplicates(facts, name, how),
    ]


def judge_cosmos(facts: CosmosFacts, settings: Settings) -> list[Verdict]:
    """Reachability and authentication, write regions, database, both containers."""
    if facts.error is not None:
        return [_broken("cosmos", facts.where, facts.error)]
    regions = ", ".join(facts.write_regions)
    verdicts = [Verdict("cosmos", "reachable, key accepted", "ok", facts.where)]
    if len(facts.write_regions) > 1:
        verdicts.append(Verdict("cosmos", "write regions", "ok", regions))
    else:
        verdicts.append(
            Verdict(
                "cosmos",
                "write regions",
                "note",
                f"{regions or 'unknown'}: one, so documents wait for it while it is down",
                "az cosmosdb update --enable-multiple-write-locations true --locations … --locations …",
            )
        )
    database = settings.cosmos_database
    if not facts.database_exists:
        mend = f"az cosmosdb sql database create --name {database} --account-name … --resource-group …"
        return [*verdicts, Verdict("cosmos", f"database {database}", "failed", "does not exist", mend)]
    verdicts.append(Verdict("cosmos", f"database {database}", "ok", "exists"))
    for name, container in facts.containers.items():
        verdicts += _container(name, container, settings)
    return verdicts


def _broken(area: str, where: str, error: MeterlineError) -> Verdict:
    return Verdict(area, "reachable, key accepted", "failed", error.what or f"no answer from {where}", error.hint)


def _topic(name: str, facts: KafkaFacts) -> Verdict:
    count = facts.partitions.get(name)
    if count is None:
        mend = "create it beforehand (an event hub on Azure), or correct its METERLINE_…_TOPIC"
        return Verdict("broker", f"topic {name}", "failed", "does not exist", mend)
    return Verdict("broker", f"topic {name}", "ok", f"{count} partition{'s' if count != 1 else ''}")


def _pair(topic: str, changelog: str, facts: KafkaFacts) -> Verdict:
    what = f"{topic} = {changelog}"
    counts = facts.partitions.get(topic), facts.partitions.get(changelog)
    if None in counts:
        return Verdict("broker", what, "unknown", "one of them does not exist")
    if counts[0] == counts[1]:
        return Verdict("broker", what, "ok", f"{counts[0]} and {counts[1]} partitions")
    return Verdict(
        "broker",
        what,
        "failed",
        f"{topic} has {counts[0]} partitions, {changelog} has {counts[1]}",
        f"a changelog needs as many partitions as its topic: create a new one with {counts[0]} and name it in "
        "METERLINE_…_STATE_TOPIC; never change a count in place",
    )


def _append_time(facts: KafkaFacts, settings: Settings) -> Verdict:
    what = f"append time on {settings.usage_topic}"
    if facts.laptop:
        return Verdict(
            "broker", what, "note", "the laptop's broker keeps producers' timestamps", "for trying out, never to bill"
        )
    told = (facts.configs or {}).get(settings.usage_topic, {}).get("message.timestamp.type")
    mend = (
        f"kafka-configs --alter --topic {settings.usage_topic} --add-config message.timestamp.type=LogAppendTime: "
        "with a producer's own timestamp one wrong clock could close windows"
    )
    if told is not None:
        right = told == "LogAppendTime"
        return Verdict("broker", what, "ok" if right else "failed", f"{told} (configuration)", "" if right else mend)
    if facts.appended is not None:
        found = "LogAppendTime" if facts.appended else "CreateTime"
        return Verdict(
            "broker",
            what,
            "ok" if facts.appended else "failed",
            f"{found} (newest record)",
            "" if facts.appended else mend,
        )
    return Verdict(
        "broker",
        what,
        "unknown",
        "could not be verified: the broker does not tell, and there is no record to look at",
        "check again once there is usage; Event Hubs stamps append time unless told otherwise",
    )


def _keeping(name: str, config: Mapping[str, str]) -> Verdict:
    what = f"keeping of {name}"
    policy, kept_ms = config.get("cleanup.policy", "delete"), int(config.get("retention.ms", "-1"))
    if policy != "delete":
        mend = "set cleanup.policy=delete: a changelog's chunks are a chain, compaction would take links out"
        return Verdict("broker", what, "failed", f"cleanup.policy={policy}", mend)
    days = "for ever" if kept_ms < 0 else f"{kept_ms / 86_400_000:.3g} days"
    if 0 <= kept_ms < RETENTION_MIN_MS:
        mend = "keep at least 2 days (7 are better): state that nobody can read back stops its partition"
        return Verdict("broker", what, "failed", days, mend)
    return Verdict("broker", what, "ok", days)


def _sessions(facts: QueueFacts, name: str, how: str) -> Verdict:
    if facts.sessions is None:
        mend = "give the key Listen for this check, or look at the queue's properties"
        return Verdict("servicebus", "sessions", "unknown", f"could not be seen: {facts.unseen}", mend)
    if facts.sessions:
        return Verdict("servicebus", "sessions", "ok", f"on ({how})")
    mend = f"sessions cannot be switched on later: create a queue with them and name it in METERLINE_SERVICEBUS_QUEUE ({name})"
    return Verdict("servicebus", "sessions", "failed", f"off ({how})", mend)


def _duplicates(facts: QueueFacts, name: str, how: str) -> Verdict:
    what = "duplicate detection"
    if facts.duplicate_detection is None:
        mend = "give the identity Manage for this check, or look at the queue's properties"
        found = f"could not be seen: {facts.unseen or 'AMQP does not show it without sending'}"
        return Verdict("servicebus", what, "unknown", found, mend)
    if not facts.duplicate_detection:
        mend = (
            f"it cannot be switched on later: create a queue with it and name it in METERLINE_SERVICEBUS_QUEUE ({name})"
        )
        return Verdict("servicebus", what, "failed", f"off ({how})", mend)
    window_s = facts.duplicate_window_s
    if window_s is not None and window_s < DUPLICATE_WINDOW_MIN_S:
        mend = f"az servicebus queue update --name {name} --duplicate-detection-history-time-window PT10M"
        return Verdict("servicebus", what, "failed", f"on, but forgets after {window_s:.0f} s ({how})", mend)
    found = "on" if window_s is None else f"on, for {window_s / 60:.3g} min"
    return Verdict("servicebus", what, "ok", f"{found} ({how})")


def _container(name: str, container: ContainerFacts | None, settings: Settings) -> list[Verdict]:
    what = f"container {name}"
    create = (
        f"az cosmosdb sql container create --name {name} --database-name {settings.cosmos_database} "
        "--partition-key-path /subject --conflict-resolution-policy-mode LastWriterWins "
        "--conflict-resolution-policy-path /revision --account-name … --resource-group …"
    )
    if container is None:
        return [Verdict("cosmos", what, "failed", "does not exist", create)]
    verdicts = [Verdict("cosmos", what, "ok", "exists")]
    again = f"this is fixed at creation: use another name, or create it again: {create}"
    key = ", ".join(container.partition_paths) or "none"
    fits = container.partition_paths == ("/subject",)
    verdicts.append(Verdict("cosmos", f"{name}: partition key", "ok" if fits else "failed", key, "" if fits else again))
    policy = f"{container.conflict_mode} {container.conflict_path}".strip() or "none"
    fits = policy == "LastWriterWins /revision"
    if name == settings.cosmos_container or fits:
        status: Status = "ok" if fits else "failed"
        verdicts.append(Verdict("cosmos", f"{name}: conflict policy", status, policy, "" if fits else again))
    return verdicts
