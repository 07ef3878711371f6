"""What survives: one SQLite file in WAL mode, one transaction per turn of the event loop, shared by many requests.

The order that makes an acknowledgement safe:

1. A request does its writes inside `atomic()`, a savepoint of the open transaction: all of them or none.
2. The first write of a turn schedules the commit for the next turn, so that whoever comes in between shares its fsync.
3. `committed()` returns when that commit is on disk. Only then does a response leave; a read waits too, because what it
   saw may be part of the same transaction.

A kill at any point loses only what was never acknowledged. The file is locked: a second server on it does not start.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from local.cosmos.regions import REGIONS, Siblings, Version, winner

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS resources (
    kind TEXT NOT NULL, parent TEXT NOT NULL, id TEXT NOT NULL, rid TEXT NOT NULL UNIQUE, body BLOB NOT NULL,
    PRIMARY KEY (kind, parent, id)
);
CREATE TABLE IF NOT EXISTS items (
    key INTEGER PRIMARY KEY AUTOINCREMENT, region INTEGER NOT NULL, container TEXT NOT NULL, pk TEXT NOT NULL,
    id TEXT NOT NULL, epk TEXT NOT NULL, clock TEXT NOT NULL, origin INTEGER NOT NULL, priority REAL NOT NULL,
    ts INTEGER NOT NULL, body BLOB, others BLOB, UNIQUE (region, container, pk, id)
);
CREATE INDEX IF NOT EXISTS items_in_order ON items (region, container, key);
CREATE TABLE IF NOT EXISTS changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, origin INTEGER NOT NULL, target INTEGER NOT NULL, container TEXT NOT NULL,
    pk TEXT NOT NULL, id TEXT NOT NULL, epk TEXT NOT NULL, at_ms INTEGER NOT NULL, version BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS changes_in_order ON changes (origin, target, seq);
CREATE TABLE IF NOT EXISTS progress (
    region INTEGER NOT NULL, container TEXT NOT NULL, origin INTEGER NOT NULL, sequence INTEGER NOT NULL,
    PRIMARY KEY (region, container, origin)
);
"""


_SCAN = (
    "SELECT key, body FROM items WHERE region=? AND container=? AND key>? AND epk>=? AND epk<? AND body NOT NULL"
    " ORDER BY key LIMIT ?"
)
_SCAN_KEY = _SCAN.replace(" ORDER BY", " AND pk=? ORDER BY")


@dataclass(frozen=True, slots=True)
class Address:
    """Where an item is: its container's rid, its key as canonical text, its id, and the key's EPK."""

    container: str
    pk: str
    id: str
    epk: str


@dataclass(frozen=True, slots=True)
class Change:
    """One write that the other region has not taken yet. seq: its place in the queue; at_ms: when it was written."""

    seq: int
    origin: int
    target: int
    address: Address
    at_ms: int
    version: Version


class Store:
    """The data directory. All methods but `committed` are synchronous and run on the event loop's thread."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(data_dir / "cosmos.sqlite3", isolation_level=None, timeout=2.0)
        try:
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            # FULL: the write-ahead log is flushed at every commit, which is what an acknowledgement promises.
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            self._forget_settled_deletions()
        except sqlite3.OperationalError as error:
            self._db.close()
            raise RuntimeError(f"cannot open the Cosmos store in {data_dir}: {error}") from error
        self._commit: asyncio.Future[None] | None = None
        self._depth = 0

    def close(self) -> None:
        """Commit what is open and let go of the file. Idempotent."""
        self._finish()
        self._db.close()

    # -- transactions ---------------------------------------------------------------------------------------------

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Everything inside happens or nothing does; on disk only after `committed()`."""
        if self._commit is None:
            loop = asyncio.get_running_loop()
            self._db.execute("BEGIN IMMEDIATE")
            self._commit = loop.create_future()
            loop.call_soon(self._finish)
        self._depth += 1
        name = f"s{self._depth}"
        self._db.execute(f"SAVEPOINT {name}")
        try:
            yield
        except BaseException:
            self._db.execute(f"ROLLBACK TO {name}")
            raise
        finally:
            self._db.execute(f"RELEASE {name}")
            self._depth -= 1

    async def committed(self) -> None:
        """Return when everything written so far is on disk; raises what the disk said otherwise."""
        if self._commit is not None:
            await asyncio.shield(self._commit)

    def _finish(self) -> None:
        waiting, self._commit = self._commit, None
        if waiting is None:
            return
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            waiting.set_exception(RuntimeError(f"the store could not commit: {error}"))
            # Whoever waits gets it; nobody waiting is no reason for a warning at exit.
            waiting.exception()
        else:
            waiting.set_result(None)

    # -- databases and containers ---------------------------------------------------------------------------------

    def resource(self, kind: str, parent: str, identifier: str) -> dict[str, Any] | None:
        """A database (`dbs`, parent empty) or container (`colls`, parent = the database's rid)."""
        row = self._db.execute(
            "SELECT body FROM resources WHERE kind=? AND parent=? AND id=?", (kind, parent, identifier)
        ).fetchone()
        return orjson.loads(row[0]) if row else None

    def resources(self, kind: str, parent: str) -> list[dict[str, Any]]:
        """All of a kind under a parent, in the order of their creation."""
        rows = self._db.execute("SELECT body FROM resources WHERE kind=? AND parent=? ORDER BY rowid", (kind, parent))
        return [orjson.loads(body) for (body,) in rows]

    def put_resource(self, kind: str, parent: str, body: dict[str, Any]) -> None:
        """Create or replace."""
        self._db.execute(
            "INSERT INTO resources VALUES (?,?,?,?,?) ON CONFLICT (kind, parent, id) DO UPDATE SET body=excluded.body",
            (kind, parent, body["id"], body["_rid"], orjson.dumps(body)),
        )

    def delete_resource(self, kind: str, parent: str, body: dict[str, Any]) -> None:
        """Remove it and everything in it, queued changes included."""
        if kind == "dbs":
            for container in self.resources("colls", body["_rid"]):
                self.delete_resource("colls", body["_rid"], container)
        else:
            for table in ("items", "changes", "progress"):
                self._db.execute(f"DELETE FROM {table} WHERE container=?", (body["_rid"],))  # noqa: S608 - fixed names
        self._db.execute("DELETE FROM resources WHERE kind=? AND parent=? AND id=?", (kind, parent, body["id"]))

    def next_number(self, name: str) -> int:
        """1, 2, 3 … per name, for resource ids."""
        row = self._db.execute(
            "INSERT INTO meta VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value", (name,)
        ).fetchone()
        return int(row[0])

    # -- items ----------------------------------------------------------------------------------------------------

    def siblings(self, region: int, address: Address) -> Siblings:
        """What a region holds of an item, deletions included; empty when it never heard of it."""
        row = self._db.execute(
            "SELECT clock, origin, priority, ts, body, others FROM items WHERE region=? AND container=? AND pk=? AND id=?",
            (region, address.container, address.pk, address.id),
        ).fetchone()
        if row is None:
            return ()
        clock, origin, priority, ts, body, others = row
        first = Version(tuple(orjson.loads(clock)), origin, priority, ts, body)
        return (first, *(_unpack(part) for part in orjson.loads(others))) if others else (first,)

    def body(self, region: int, container: str, pk: str, identifier: str) -> bytes | None:
        """The item a reader sees, as stored; None when there is none."""
        row = self._db.execute(
            "SELECT body FROM items WHERE region=? AND container=? AND pk=? AND id=?",
            (region, container, pk, identifier),
        ).fetchone()
        return row[0] if row else None

    def put(self, region: int, address: Address, siblings: Siblings) -> None:
        """Store what a region holds of an item."""
        first = winner(siblings)
        assert first is not None, "an item that was written has a version"
        others = [_pack(version) for version in siblings if version is not first]
        self._db.execute(
            "INSERT INTO items (region, container, pk, id, epk, clock, origin, priority, ts, body, others)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (region, container, pk, id) DO UPDATE SET clock=excluded.clock,"
            " origin=excluded.origin, priority=excluded.priority, ts=excluded.ts, body=excluded.body,"
            " others=excluded.others",
            (
                region, address.container, address.pk, address.id, address.epk, orjson.dumps(first.clock).decode(),
                first.origin, first.priority, first.ts, first.body, orjson.dumps(others) if others else None,
            ),
        )  # fmt: skip

    def scan(
        self, region: int, container: str, *, pk: str | None, epk: tuple[str, str], after: int, limit: int
    ) -> list[tuple[int, bytes]]:
        """Up to `limit` items in the order they came, as (key, body), beginning after a key.

        pk: one partition key's items only. epk: those with min <= EPK < max.
        """
        return self._db.execute(
            _SCAN if pk is None else _SCAN_KEY,
            (region, container, after, *epk, *(() if pk is None else (pk,)), limit),
        ).fetchall()

    def count(self, region: int, container: str) -> int:
        """How many items a region shows."""
        row = self._db.execute(
            "SELECT COUNT(*) FROM items WHERE region=? AND container=? AND body NOT NULL", (region, container)
        ).fetchone()
        return int(row[0])

    # -- replication ----------------------------------------------------------------------------------------------

    def progress(self, region: int, container: str) -> tuple[int, ...]:
        """Per origin, the sequence of its last write that this region has."""
        found = dict(
            self._db.execute(
                "SELECT origin, sequence FROM progress WHERE region=? AND container=?", (region, container)
            )
        )
        return tuple(found.get(origin, 0) for origin in range(REGIONS))

    def advance(self, region: int, container: str, origin: int, sequence: int) -> None:
        """Note that this region now has `origin`'s writes up to `sequence`."""
        self._db.execute(
            "INSERT INTO progress VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET sequence=MAX(sequence, excluded.sequence)",
            (region, container, origin, sequence),
        )

    def queue(self, origin: int, address: Address, version: Version, at_ms: int) -> None:
        """Queue a write for every other region."""
        packed = orjson.dumps(_pack(version))
        for target in range(REGIONS):
            if target != origin:
                self._db.execute(
                    "INSERT INTO changes (origin, target, container, pk, id, epk, at_ms, version) VALUES (?,?,?,?,?,?,?,?)",
                    (origin, target, address.container, address.pk, address.id, address.epk, at_ms, packed),
                )

    def queued(self, origin: int, target: int, limit: int) -> list[Change]:
        """The oldest changes waiting on one road, in order."""
        rows = self._db.execute(
            "SELECT seq, origin, target, container, pk, id, epk, at_ms, version FROM changes WHERE origin=? AND target=?"
            " ORDER BY seq LIMIT ?",
            (origin, target, limit),
        )
        return [
            Change(seq, origin, target, Address(container, pk, identifier, epk), at_ms, _unpack(orjson.loads(version)))
            for seq, origin, target, container, pk, identifier, epk, at_ms, version in rows
        ]

    def unqueue(self, change: Change) -> None:
        """Forget a change that its target has taken."""
        self._db.execute("DELETE FROM changes WHERE seq=?", (change.seq,))

    def queue_length(self, origin: int, target: int) -> int:
        """How many changes wait on one road."""
        row = self._db.execute("SELECT COUNT(*) FROM changes WHERE origin=? AND target=?", (origin, target)).fetchone()
        return int(row[0])

    def _forget_settled_deletions(self) -> None:
        # A deletion is remembered so that a late concurrent write cannot bring the item back. With both queues empty
        # there is no such write.
        if not self._db.execute("SELECT EXISTS (SELECT 1 FROM changes)").fetchone()[0]:
            self._db.execute("DELETE FROM items WHERE body IS NULL")


def _pack(version: Version) -> list[Any]:
    body = None if version.body is None else version.body.decode()
    lowest = version.priority == float("-inf")
    return [version.clock, version.origin, None if lowest else version.priority, version.ts, body]


def _unpack(packed: list[Any]) -> Version:
    clock, origin, priority, ts, body = packed
    return Version(
        tuple(clock),
        origin,
        float("-inf") if priority is None else priority,
        ts,
        None if body is None else body.encode(),
    )
