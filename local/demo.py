"""`local` in the foreground: stack, workers, usage, and a calm feed of the invoice messages that come of it."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console, RenderableType

from local.foreground import stop_signals, unless, write_env_file
from local.generator import live
from local.identity import DataDirectory
from local.reading import Rules
from local.stack import Stack
from local.workers import WorkerProcess, ports
from schemas.meters import load as load_meters
from sinks.receiving import InvoiceMessage, receive
from transport.sending import UsageProducer

Render = Callable[[dict[str, Any]], RenderableType]
LINES_A_SECOND = 5
_CTRL_C_S = 0.3


def cleared(directory: Path) -> Path:
    """The directory without the messages and documents of an earlier run. Raises ConfigurationError while one is running.

    The embedded broker's log is in memory and begins anew; windows that were counted from the old log would contradict
    those of the new one under the same ids.
    """
    ours = DataDirectory(directory)
    ours.lock()
    try:
        for part in ("servicebus", "cosmos", "logs"):
            shutil.rmtree(directory / part, ignore_errors=True)
    finally:
        ours.unlock()
    return directory


class Demo:
    """Runs until SIGINT, SIGTERM or the death of a part.

    rate: events a second, None for no generator. render: a document as one line of the feed.
    """

    def __init__(
        self, stack: Stack, *, workers: int, rate: float | None, seed: int, env_file: Path | None, render: Render
    ) -> None:
        self._stack = stack
        self._render = render
        self._rate = rate
        self._seed = seed
        self._env_file = env_file
        self._meters = Path(stack.settings.meters)
        load_meters(self._meters)  # refused here, with file and line, rather than in a worker's log
        web = ports(workers, stack.settings.web_port)
        self._workers = [WorkerProcess(stack, number, port) for number, port in enumerate(web, start=1)]

    async def run(self, console: Console) -> int:
        """Everything up, then usage and feed. The exit code: 0 after a signal, 1 if a part died. Nothing is left."""
        if self._env_file is not None:
            self._env_file.unlink(missing_ok=True)  # whoever waits for it must not find yesterday's
        with stop_signals() as stop:
            try:
                console.print("[dim]starting broker, Service Bus, Cosmos DB and worker …")
                if not await unless(stop, self._start()):
                    return 0
                self._greet(console)
                return await self._until_ended(console, stop)
            finally:
                await asyncio.gather(*(worker.stop() for worker in self._workers))
                await self._stack.close()

    async def _start(self) -> None:
        await self._stack.start()
        for worker in self._workers:
            await worker.start()
        await asyncio.gather(*(worker.serving() for worker in self._workers))
        if self._env_file is not None:
            write_env_file(self._env_file, self._stack)

    def _greet(self, console: Console) -> None:
        console.print(f"\n  dashboard  [bold cyan]{self._workers[0].url}/[/]")
        console.print(f"  data, logs {self._stack.data_dir}", style="dim")
        console.print("  Ctrl-C ends everything\n", style="dim")
        if self._rate is not None:
            console.print("usage of the last six minutes first, then as it happens:\n")

    async def _until_ended(self, console: Console, stop: asyncio.Event) -> int:
        feed = CalmFeed(console, self._render)
        background = [
            asyncio.create_task(self._followed(feed, stop)),
            asyncio.create_task(feed.run()),
            asyncio.create_task(self._generate()),
        ]
        try:
            died = await self._first_death(stop, background)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
        if died is None:
            console.print("[dim]ending …")
            return 0
        console.print(f"[red]error:[/] {died}")
        return 1

    async def _first_death(self, stop: asyncio.Event, background: list[asyncio.Task[None]]) -> str | None:
        """None when a signal came first; else what died, and how."""
        children = [*self._stack.processes.values(), *(worker.process for worker in self._workers)]
        while not stop.is_set():
            for task in background:
                if task.done() and task.exception() is not None:
                    return str(task.exception())
            for child in children:
                if not child.running:
                    # Ctrl-C reaches the whole process group: a child may be gone before our own handler has run.
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), _CTRL_C_S)
                    return None if stop.is_set() else child.obituary()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.2)
        return None

    async def _followed(self, feed: CalmFeed, stop: asyncio.Event) -> None:
        await receive(self._stack.settings, feed.add, sessions=8, stop=stop)

    async def _generate(self) -> None:
        if self._rate is None:
            return
        rules = Rules.of(yaml.safe_load(self._meters.read_text()))
        async with UsageProducer(self._stack.settings) as producer:
            usage = live(
                rules,
                seed=self._seed,
                partitions=producer.partitions,
                now_ms=time.time_ns() // 1_000_000,
                rate=self._rate,
            )
            for planned in usage:
                ahead_s = planned.due_ms / 1000 - time.time()
                if ahead_s > 0:
                    await asyncio.sleep(ahead_s)
                await producer.send(planned.partition, planned.key, planned.value, planned.headers)


class CalmFeed:
    """Prints invoice messages, a few a second: what comes in a rush is counted, not scrolled past."""

    def __init__(self, console: Console, render: Render) -> None:
        self._console = console
        self._render = render
        self._new: deque[InvoiceMessage] = deque()

    def add(self, message: InvoiceMessage) -> None:
        """One more to show."""
        self._new.append(message)

    async def run(self) -> None:
        """Show, once a second, for ever."""
        while True:
            await asyncio.sleep(1.0)
            self.show()

    def show(self) -> None:
        """Print what has come since: the newest few, and how many more there were."""
        more = len(self._new) - LINES_A_SECOND
        if more > 0:
            self._console.print(f"… {more} more invoice messages", style="dim")
        for message in list(self._new)[-LINES_A_SECOND:]:
            self._console.print(self._render(message.body), soft_wrap=True)
        self._new.clear()
