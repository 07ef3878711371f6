"""A worker whose membership is over begins anew as the same process; one that must not go on says why and ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import asyncio, os, signal, sys, time
from schemas.errors import ConfigurationError
from streams import start_over
from streams.start_over import RESTARTS, StartOver

async def main():
    print("life", os.getpid(), os.environ.get(RESTARTS, "none").split(":")[0], *sys.argv[1:], flush=True)
    left = []
    async def leave():
        left.append(True)
        print("left the group", flush=True)
        if "stuck" in sys.argv:
            raise OSError("the broker is away")
    over = StartOver(leave)
    if "refuse" in sys.argv:
        over.refuse(ConfigurationError("the topic is missing", where="topics", hint="create it"))
    elif "finish" in sys.argv:
        over.told_to_end()
        await over.finish("handed-over" in sys.argv)
    elif "hang" in sys.argv:
        start_over.END_S = 0.2
        over.told_to_end()
        time.sleep(3600)
    elif "told-meanwhile" in sys.argv:
        over.request("a send failed")
        over.told_to_end()
    elif "signalled-last" in sys.argv:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.told_to_end)
        change = signal.signal
        def late(number, how):
            signal.signal = change
            os.kill(os.getpid(), signal.SIGTERM)  # the loop has it, and has not looked at it
            return change(number, how)
        signal.signal = late
        over.request("a send failed")
    elif "interpreter-replaced" in sys.argv:
        sys.executable = "/not/there/python"
        over.request("a send failed")
        await asyncio.sleep(10)  # as a worker, which waits for no end of it
        print("still there", flush=True)
        return
    elif RESTARTS not in os.environ:
        over.request("a send failed")
        over.request("another one, told once only")
    else:
        return
    await over.ended()

asyncio.run(main())
"""


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_leaves_the_group_and_begins_anew_with_the_same_process_and_arguments() -> None:
    done = run("worker", "-l", "info")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 3
    (_, first, before, *arguments), left, (_, second, after, *again) = lines[0].split(), lines[1], lines[2].split()
    assert left == "left the group"
    assert first == second, "the process id stays, whatever launched it"
    assert arguments == again == ["worker", "-l", "info"]
    assert (before, after) == ("none", "0")


def test_a_group_that_cannot_be_left_holds_it_up_not_for_long() -> None:
    done = run("stuck")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("life") == 2


def test_a_signal_that_came_just_before_is_not_lost_with_the_image() -> None:
    """Lost, the next life would not know of it, and go on for ever."""
    done = run("signalled-last")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("life") == 1


def test_refusing_says_what_and_what_to_do_and_ends_with_2() -> None:
    done = run("refuse")
    assert done.returncode == 2
    assert "the topic is missing" in done.stderr
    assert "create it" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("life") == 1


def test_a_worker_that_handed_over_ends_with_0_and_one_that_could_not_with_1() -> None:
    assert run("finish", "handed-over").returncode == 0
    done = run("finish")
    assert (done.returncode, done.stdout.splitlines()[1:]) == (1, ["left the group"])
    assert "begin at the last checkpoints" in done.stderr
    assert run("finish", "handed-over", "stuck").returncode == 0, "the session timeout does the same a little later"


def test_what_hangs_is_cut_short_even_where_it_is_the_event_loop() -> None:
    done = run("hang")
    assert done.returncode == 1
    assert "cut short" in done.stderr


def test_a_worker_that_was_told_to_end_does_not_begin_anew() -> None:
    done = run("told-meanwhile")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("life") == 1


def test_where_the_interpreter_was_replaced_it_says_so_and_ends_instead_of_staying_in_no_group() -> None:
    done = run("interpreter-replaced")
    assert (done.returncode, done.stdout.splitlines()[1:]) == (1, ["left the group"])
    assert "cannot begin anew, /not/there/python does not start: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr
