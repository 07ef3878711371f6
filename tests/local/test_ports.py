"""Ports that are chosen before anybody listens on them: no two processes choose the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from local.ports import BLOCK, Blocks, is_free
from schemas.errors import BrokerError

FIRST = 15_000
"""Servers of other tests are elsewhere."""


@pytest.fixture
def pair() -> Iterator[tuple[Blocks, Blocks]]:
    """As of two processes; they have six blocks."""
    pair = Blocks(range(FIRST, FIRST + 6 * BLOCK)), Blocks(range(FIRST, FIRST + 6 * BLOCK))
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


def test_a_port_that_is_listened_on_is_passed_over() -> None:
    two = range(FIRST, FIRST + 3)
    with socket.socket() as server:
        server.bind(("127.0.0.1", two[1]))
        server.listen()
        assert not is_free(two[1])
        blocks = Blocks(two)
        assert blocks.free_port() == two[2]
        blocks.close()
        blocks = Blocks(two[:2])
        with pytest.raises(BrokerError, match="all ports"):
            blocks.free_port()
        blocks.close()


def test_where_others_have_all_that_is_said() -> None:
    few = range(FIRST, FIRST + BLOCK)
    first, second = Blocks(few), Blocks(few)
    first.free_port()
    with pytest.raises(BrokerError, match=f"other processes have all ports from {FIRST} to {FIRST + BLOCK - 1}"):
        second.free_port()
    first.close()
    assert second.free_port() in few
    second.close()


def test_a_process_that_is_gone_leaves_its_ports_to_others() -> None:
    few = range(FIRST, FIRST + BLOCK)
    text = f"import local.ports; print(local.ports.Blocks(range({few.start}, {few.stop})).free_port())"
    chosen = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert int(chosen.stdout) in few
    blocks = Blocks(few)
    assert blocks.free_port() in few
    blocks.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork: a POSIX system")
def test_a_fork_chooses_from_a_block_of_its_own() -> None:
    blocks = Blocks(range(FIRST, FIRST + 6 * BLOCK))
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
