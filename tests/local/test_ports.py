"""Ports that are chosen before anybody listens on them: no two processes choose the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.ports import BLOCK, Blocks, is_free
from schemas.errors import BrokerError

FIRST = 15_000
"""Servers of other tests are elsewhere."""


def drawn(blocks: Blocks, many: int) -> list[int]:
    return [blocks.free_port() for _ in range(many)]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Blocks, Blocks]]:
    """Of two processes, as far as the locks are concerned; they have six blocks."""
    pair = Blocks(tmp_path, range(FIRST, FIRST + 6 * BLOCK)), Blocks(tmp_path, range(FIRST, FIRST + 6 * BLOCK))
    yield pair
    for blocks in pair:
        blocks.close()


def test_no_port_is_chosen_by_two(pair: tuple[Blocks, Blocks]) -> None:
    left, right = pair
    mine, others = [], []
    for _ in range(2 * BLOCK - 8):
        mine.append(left.free_port())
        others.append(right.free_port())
        recent = {*mine[-8:]} | {*others[-8:]}  # what nobody may listen on yet
        assert len(recent) == len(mine[-8:]) + len(others[-8:])
    assert all(port in range(FIRST, FIRST + 6 * BLOCK) for port in mine + others)


def test_a_port_that_is_listened_on_is_passed_over(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = server.getsockname()[1]
        assert not is_free(taken)
        blocks = Blocks(tmp_path, range(taken, taken + BLOCK))
        assert taken not in drawn(blocks, 5)
        blocks.close()
        blocks = Blocks(tmp_path, range(taken, taken + 1))
        with pytest.raises(BrokerError, match="all ports"):
            blocks.free_port()
        blocks.close()


def test_where_others_have_all_that_is_said(tmp_path: Path) -> None:
    few = range(FIRST, FIRST + BLOCK)
    first, second = Blocks(tmp_path, few), Blocks(tmp_path, few)
    first.free_port()
    with pytest.raises(BrokerError, match=f"other processes have all ports from {FIRST} to {FIRST + BLOCK - 1}"):
        second.free_port()
    first.close()
    assert second.free_port() in few
    second.close()


def test_a_process_that_is_gone_leaves_its_ports_to_others(tmp_path: Path) -> None:
    few = range(FIRST, FIRST + BLOCK)
    text = (
        "import pathlib, sys, local.ports\n"
        f"print(local.ports.Blocks(pathlib.Path(sys.argv[1]), range({few.start}, {few.stop})).free_port())\n"
    )
    held = subprocess.run([sys.executable, "-c", text, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(held.stdout) in few
    blocks = Blocks(tmp_path, few)
    assert blocks.free_port() in few
    blocks.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork: a POSIX system")
def test_a_fork_chooses_from_a_block_of_its_own(tmp_path: Path) -> None:
    blocks = Blocks(tmp_path, range(FIRST, FIRST + 6 * BLOCK))
    mine = blocks.free_port()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(blocks.free_port()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = int(os.read(reading, 16))
    assert (theirs - FIRST) // BLOCK != (mine - FIRST) // BLOCK
    blocks.close()
    for end in (reading, writing):
        os.close(end)
