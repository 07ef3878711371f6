"""What survives: every queue's messages, delivery counts, session states and duplicate history, in one SQLite file.

Nothing is durable before `commit`, and nothing may be acknowledged before it: the server holds back every frame it
has to send until the commit of the event-loop turn that produced it (one commit for all clients of that turn). The
file is in WAL mode with synchronous=FULL, so what was acknowledged outlives a kill -9 and a power cut.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from . import codec
from .entry import Entry, State
from .message import Incoming

_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    row INTEGER PRIMARY KEY,
    queue TEXT NOT NULL, dead INTEGER NOT NULL, sequence INTEGER NOT NULL,
    session TEXT, state INTEGER NOT NULL, failures INTEGER NOT NULL,
    enqueued_ms INTEGER NOT NULL, expires_ms INTEGER, due_ms INTEGER,
    overlay BLOB, head BLOB NOT NULL, annotations BLOB NOT NULL, bare BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS message_order ON message (queue, dead, sequence);
CREATE TABLE IF NOT EXISTS history (
    queue TEXT NOT NULL, message_id TEXT NOT NULL, seen_ms INTEGER NOT NULL, PRIMARY KEY (queue, message_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS history_age ON history (queue, seen_ms);
CREATE TABLE IF NOT EXISTS session (
    queue TEXT NOT NULL, session TEXT NOT NULL, state BLOB NOT NULL, PRIMARY KEY (queue, session)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queue (name TEXT PRIMARY KEY, last_sequence INTEGER NOT NULL) WITHOUT ROWID;
"""


class Store:
    """The journal of all queues of one server. Used from one thread; sqlite3's errors pass through."""

    def __init__(self, path: Path | str) -> None:
        self._db = sqlite3.connect(path, timeout=0.5, isolation_level=None)
        try:
            # One writer: a second server on the same directory must fail at once, not interleave.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA wal_autocheckpoint=10000")  # pages; the default makes every few commits wait
            self._db.execute("PRAGMA cache_size=-65536")  # KiB
            self._db.executescript(_SCHEMA)
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("COMMIT")
        except sqlite3.Error:
            self._db.close()
            raise
        self._open = False
        self._last_sequences: dict[str, int] = dict(self._db.execute("SELECT name, last_sequence FROM queue"))
        self._advanced: set[str] = set()

    def commit(self) -> None:
        """Make everything since the last commit durable. Raises sqlite3.Error: then nothing of it may be told."""
        if not self._open:
            return
        for queue in self._advanced:
            self._db.execute("INSERT OR REPLACE INTO queue VALUES (?, ?)", (queue, self._last_sequences[queue]))
        self._advanced.clear()
        self._db.execute("COMMIT")
        self._open = False

    def close(self) -> None:
        """Close without committing; `commit` first."""
        self._db.close()

    def _write(self, sql: str, values: tuple[object, ...]) -> sqlite3.Cursor:
        if not self._open:
            self._db.execute("BEGIN IMMEDIATE")
            self._open = True
        return self._db.execute(sql, values)

    # --- messages --------------------------------------------------------------------------------------------------

    def add(self, queue: str, entry: Entry, incoming: Incoming) -> None:
        cursor = self._write(
            "INSERT INTO message VALUES (NULL, ?, 0, ?, ?, ?, ?, ?, ?, ?, NULL, ?, ?, ?)",
            (
                queue,
                entry.sequence_number,
                entry.session_id,
                int(entry.state),
                entry.failures,
                entry.enqueued_ms,
                entry.expires_ms,
                entry.due_ms,
                incoming.head,
                incoming.annotations,
                incoming.bare,
            ),
        )
        assert cursor.lastrowid is not None, "an INSERT has a row"
        entry.row = cursor.lastrowid
        self._note_sequence(queue, entry.sequence_number)

    def change(self, entry: Entry, *, dead: bool) -> None:
        overlay = None
        if entry.overlay is not None:
            overlay = codec.map_of((codec.string(key), value) for key, value in entry.overlay.items())
        row = self._write(
            "UPDATE message SET dead = ?, sequence = ?, state = ?, failures = ?, enqueued_ms = ?, expires_ms = ?, "
            "overlay = ? WHERE row = ? RETURNING queue",
            (
                int(dead),
                entry.sequence_number,
                int(entry.state),
                entry.failures,
                entry.enqueued_ms,
                entry.expires_ms,
                overlay,
                entry.row,
            ),
        ).fetchone()
        assert row is not None, "only a stored message changes"
        self._note_sequence(row[0], entry.sequence_number)

    def _note_sequence(self, queue: str, sequence: int) -> None:
        if sequence > self._last_sequences.get(queue, 0):
            self._last_sequences[queue] = sequence
            self._advanced.add(queue)

    def remove(self, entry: Entry) -> None:
        self._write("DELETE FROM message WHERE row = ?", (entry.row,))

    def parts(self, entry: Entry) -> tuple[bytes, bytes, bytes]:
        """A stored message's head, annotations and bare message, as `message.outgoing` wants them."""
        row: tuple[bytes, bytes, bytes] = self._db.execute(
            "SELECT head, annotations, bare FROM message WHERE row = ?", (entry.row,)
        ).fetchone()
        return row

    def page(self, queue: str, *, dead: bool, start: int, limit: int, session_id: str | None) -> list[int]:
        """Sequence numbers from `start` on, in order, of any state."""
        rows = self._db.execute(
            "SELECT sequence FROM message WHERE queue = ? AND dead = ? AND sequence >= ? "
            "AND (? IS NULL OR session = ?) ORDER BY sequence LIMIT ?",
            (queue, int(dead), start, session_id, session_id, limit),
        )
        return [number for (number,) in rows]

    def stored(self, queue: str) -> Iterator[tuple[bool, Entry]]:
        """Everything a queue holds, dead letters marked True, in order."""
        for row in self._db.execute(
            "SELECT dead, row, sequence, session, enqueued_ms, state, failures, expires_ms, due_ms, overlay "
            "FROM message WHERE queue = ? ORDER BY sequence",
            (queue,),
        ):
            entry = Entry(row[1], row[2], row[3], row[4], State(row[5]), row[6], row[7], row[8])
            if row[9] is not None:
                entry.overlay = {codec.decode(key).decode(): value for key, value in codec.pairs_of(row[9])}
            yield bool(row[0]), entry

    def last_sequence(self, queue: str) -> int:
        """The highest sequence number ever given in this queue: none is given twice, whatever was removed since."""
        return self._last_sequences.get(queue, 0)

    # --- duplicates and sessions -----------------------------------------------------------------------------------

    def is_new(self, queue: str, message_id: str, now_ms: int, window_ms: int) -> bool:
        """True, and remembered, unless the id was first seen less than `window_ms` ago."""
        cursor = self._write(
            "INSERT INTO history VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET seen_ms = excluded.seen_ms "
            "WHERE seen_ms <= ?",
            (queue, message_id, now_ms, now_ms - window_ms),
        )
        return cursor.rowcount == 1

    def forget(self, queue: str, before_ms: int) -> None:
        self._write("DELETE FROM history WHERE queue = ? AND seen_ms <= ?", (queue, before_ms))

    def session_state(self, queue: str, session_id: str) -> bytes | None:
        row = self._db.execute(
            "SELECT state FROM session WHERE queue = ? AND session = ?", (queue, session_id)
        ).fetchone()
        return row[0] if row else None

    def set_session_state(self, queue: str, session_id: str, state: bytes | None) -> None:
        if state is None:
            self._write("DELETE FROM session WHERE queue = ? AND session = ?", (queue, session_id))
        else:
            self._write("INSERT OR REPLACE INTO session VALUES (?, ?, ?)", (queue, session_id, state))
