"""The stack in the foreground: up, its settings in a file, until a signal or the death of a part ends it."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from local.identity import write_private
from local.stack import Stack

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def serve(
    stack: Stack, env_file: Path | None = None, on_ready: Callable[[Stack], Awaitable[None]] | None = None
) -> int:
    """Start the stack, write its env file, call `on_ready`, and hold until SIGTERM, SIGINT or a part's death.

    Returns the exit code: 0 after a signal, 1 if a part died, which is told on stderr with the tail of its log.
    Whatever happens, no child is left. The env file stays: keys and ports are kept with the data directory.
    Raises what `Stack.start` raises.
    """
    if env_file is not None:
        env_file.unlink(missing_ok=True)  # noqa: ASYNC240 - whoever waits for it must not find yesterday's
    with stop_signals() as stop:
        try:
            if not await unless(stop, stack.start()):
                return 0
            if env_file is not None:
                write_env_file(env_file, stack)
            if on_ready is not None:
                await on_ready(stack)
            return await until_ended(stack, stop)
        finally:
            await stack.close()


async def until_ended(stack: Stack, stop: asyncio.Event) -> int:
    """Wait for `stop` (0), or for the death of a part (1; told on stderr)."""
    if not await unless(stop, stack.wait()):
        return 0
    dead = await stack.wait()
    print(f"error: {dead.obituary()}", file=sys.stderr, flush=True)
    return 1


async def unless(stop: asyncio.Event, work: Awaitable[object]) -> bool:
    """Do the work, or stop doing it once `stop` is set. True if it was done. Raises what it raises."""
    doing = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if not doing.done():
            doing.cancel()
        await asyncio.wait({doing, stopping})
    if doing.cancelled():
        return False
    doing.result()
    return True


@contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM, SIGINT and SIGHUP set, in place of what they do otherwise. On the running loop's main thread.

    SIGHUP, since a closed terminal tells us and not the servers; not where it is ignored, as under `nohup`.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


def write_env_file(path: Path, stack: Stack) -> None:
    """`NAME=value` per line, unquoted, mode 0600, whole or not at all. Call it once everything answers.

    The form that python-dotenv, `docker --env-file` and systemd read alike. A shell's `source` does not: connection
    strings hold semicolons; there it is `env $(cat FILE) command`.
    """
    lines = [f"{name}={value}" for name, value in stack.environment.items()]
    assert not any("\n" in line for line in lines), "one line per setting"
    write_private(path, "\n".join(lines) + "\n")
