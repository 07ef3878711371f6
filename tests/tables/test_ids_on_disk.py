"""Known ids beyond the memory that they may take: on disk, and nothing is decided otherwise, whatever the disk does."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.errors import DiskFailed
from tables.dedupe import KnownIds
from tables.runs import Disk, Found
from tests.tables.ids import HOUR, MINUTE, NOON, count, knows, numbered, restore, snapshot

MEMORY = 200_000


def filled(disk: Disk, many: int = 40_000) -> KnownIds:
    """Ids of a whole hour, one after the other."""
    known = KnownIds(HOUR, disk)
    for number in range(0, many, 1000):
        time_ms = NOON + number * HOUR // many
        assert not any(count(known, numbered(number, number + 1000), time_ms))
        list(known.touched())
    return known


def files(directory: Path) -> list[Path]:
    return [*directory.glob("*/*.run")]


def test_memory_stays_within_its_share_and_every_duplicate_is_known(tmp_path: Path) -> None:
    known = filled(Disk(tmp_path, MEMORY))
    assert known.spilled > 30_000
    assert known.size_bytes < 1.5 * MEMORY
    assert all(count(known, numbered(0, 40_000), NOON + HOUR))
    assert not any(count(known, numbered(40_000, 41_000), NOON + HOUR))


def test_an_id_that_is_new_seldom_touches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = filled(Disk(tmp_path, MEMORY))
    reads: list[int] = []
    pread = os.pread

    def counted(file: int, size: int, at: int) -> bytes:
        reads.append(size)
        return pread(file, size, at)

    monkeypatch.setattr("tables.runs.os.pread", counted)
    monkeypatch.setattr(Disk, "write", lambda *given: pytest.fail("nothing is put in"))
    assert not any(knows(known, numbered(100_000, 110_000), NOON + HOUR))
    assert len(reads) < 300


def test_there_are_few_files_and_they_go_with_their_time(tmp_path: Path) -> None:
    known = filled(Disk(tmp_path, MEMORY))
    gc.collect()
    assert 0 < len(files(tmp_path)) <= 8
    known.evict(NOON + 3 * HOUR)
    gc.collect()
    assert len(known) == 0 and files(tmp_path) == []


def test_a_snapshot_has_what_is_on_disk(tmp_path: Path) -> None:
    known = filled(Disk(tmp_path, MEMORY))
    again = restore(KnownIds(HOUR), snapshot(known))
    assert len(again) == len(known) == 40_000
    assert all(knows(again, numbered(0, 40_000), NOON + HOUR))


def test_a_restored_state_spills_as_it_comes(tmp_path: Path) -> None:
    pieces = snapshot(filled(Disk(tmp_path, 1 << 30)))
    again = restore(KnownIds(HOUR, Disk(tmp_path, MEMORY)), pieces * 2)
    assert again.spilled > 20_000 and again.size_bytes < 2 * MEMORY
    assert len(again) == 40_000 and all(knows(again, numbered(0, 40_000), NOON + HOUR))


def test_partitions_share_the_memory_of_their_process(tmp_path: Path) -> None:
    disk = Disk(tmp_path, MEMORY)
    alone = disk.share_bytes
    both = [KnownIds(HOUR, disk), KnownIds(HOUR, disk)]
    assert disk.share_bytes == alone // 2 == MEMORY // 2
    del both[0]
    gc.collect()
    assert disk.share_bytes == MEMORY


def test_ids_of_a_time_that_is_too_late_are_not_merged_on(tmp_path: Path) -> None:
    known = KnownIds(HOUR, Disk(tmp_path, MEMORY))
    for number in range(0, 100_000, 1000):
        time_ms = NOON + number // 100 * MINUTE // 2
        count(known, numbered(number, number + 1000), time_ms)
        known.evict(time_ms)
    gc.collect()
    assert len(known) < 15_000
    assert sum(file.stat().st_size for file in files(tmp_path)) < 24 * 3 * 15_000


def test_a_disk_that_is_full_stops_the_partition_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = filled(Disk(tmp_path, MEMORY))

    def full(path: Path, *_: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DiskFailed, match=r"cannot write known ids at .*run: No space left on device -> .*MEMORY_MB"):
        for number in range(0, 100_000, 1000):
            count(known, numbered(-1000 - number, -number), NOON + HOUR)


@pytest.mark.parametrize("how", ["cut", "gone", "unreadable"])
def test_a_file_that_cannot_be_read_is_an_error_never_an_answer(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = filled(Disk(tmp_path, MEMORY))
    for file in files(tmp_path):
        if how == "cut":
            os.truncate(file, 1000)
        elif how == "gone":
            file.unlink()

    def unreadable(*_: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    if how == "unreadable":
        monkeypatch.setattr("tables.runs.os.pread", unreadable)
    with pytest.raises(DiskFailed, match="cannot read known ids at"):
        count(known, numbered(0, 1000), NOON + HOUR)


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    living = Disk(tmp_path, MEMORY)
    kept = living.write(Found(numbered(0, 10).words, np.full(10, 1)))
    script = (
        "import os, sys; from pathlib import Path; from tables.runs import Disk, Found; from tests.tables.ids import numbered;"
        "import numpy as np; run = Disk(Path(sys.argv[1]), 0).write(Found(numbered(0, 10).words, np.full(10, 1)));"
        "print(run.path, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    left = Path(done.stdout.strip())
    assert left.is_file() and kept.path.is_file()
    Disk(tmp_path, MEMORY).clear()
    assert not left.parent.exists() and kept.path.is_file()
    (tmp_path / "ids-half-made").mkdir()
    Disk(tmp_path, MEMORY).clear()


def test_what_cannot_be_locked_is_left_alone_and_ends_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = tmp_path / "ids-0123456789abcdef"
    left.mkdir()
    (left / "lock").touch()

    def no_locks(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("tables.runs.fcntl.flock", no_locks)
    Disk(tmp_path, MEMORY).clear()
    assert (left / "lock").exists()
    assert f"{left} is left as it is: it cannot be locked (No locks available)" in caplog.text


def test_nothing_is_made_where_memory_is_enough(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "ids", 1 << 30)
    disk.clear()
    assert filled(disk).spilled == 0
    assert not (tmp_path / "ids").exists()
