"""An event loop whose time is virtual and whose order is a function of what was scheduled: no sockets, no threads, no waiting.

Everything that runs, runs in a context. `HOST` in that context names the process it belongs to, so that a process can be
frozen as SIGSTOP does (what becomes ready waits) or killed as SIGKILL does (what becomes ready never runs: no `finally`, no
last word). What runs outside of any host is the world itself: brokers, services, the network.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, cast

T = TypeVar("T")

HOST: ContextVar[Host | None] = ContextVar("HOST", default=None)


class Stuck(AssertionError):
    """Nothing is scheduled any more, but the main coroutine has not ended; or it takes more turns than it may."""


class Host:
    """A process as the scheduler sees it. state: `running`, `frozen` or `dead`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = "running"
        self.tasks: list[asyncio.Task[Any]] = []
        self._parked: list[Handle] = []

    def freeze(self) -> None:
        """Nothing of it runs until `thaw`."""
        if self.state == "running":
            self.state = "frozen"

    def kill(self) -> None:
        """Nothing of it ever runs again."""
        self.state = "dead"
        self._parked = []

    def thaw(self, loop: VirtualLoop) -> None:
        """It goes on, with everything that became ready meanwhile, in that order."""
        if self.state == "frozen":
            self.state = "running"
            parked, self._parked = self._parked, []
            for handle in parked:
                loop.ready(handle)

    def park(self, handle: Handle) -> None:
        """Keeps what became ready while it was frozen."""
        if self.state == "frozen":
            self._parked.append(handle)


class Handle:
    """A callback that is due at a time, or now."""

    __slots__ = ("args", "callback", "context", "done", "when_s")

    def __init__(self, when_s: float, callback: Callable[..., Any], args: tuple[Any, ...], context: Context) -> None:
        self.when_s = when_s
        self.callback = callback
        self.args = args
        self.context = context
        self.done = False

    def cancel(self) -> None:
        """It never runs."""
        self.done = True

    def cancelled(self) -> bool:
        """Whether it was cancelled, or has run."""
        return self.done

    def when(self) -> float:
        """When it is due, virtual seconds."""
        return self.when_s


class VirtualLoop:
    """Has of an event loop what asyncio asks of one where there is no input and no output.

    Runs what is ready in the order it became so; where nothing is, time jumps to what is due next.

    start_s: where its time begins. Raises Stuck from `run` after `turns_max` callbacks: a world must end.
    """

    def __init__(self, start_s: float = 0.0, turns_max: int = 5_000_000) -> None:
        self.now_s = start_s
        self.turns = 0
        self.errors: list[str] = []
        self._turns_max = turns_max
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._number = 0
        self._tasks: list[asyncio.Task[Any]] = []

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine and of everything it starts; what is left when it ends is closed."""
        before = events._get_running_loop()
        events._set_running_loop(cast(asyncio.AbstractEventLoop, self))
        try:
            task = Context().run(self.create_task, main)
            while not task.done():
                self._turn()
            result: T = task.result()
            return result
        finally:
            self._close_all()
            events._set_running_loop(before)

    def ready(self, handle: Handle) -> None:
        """Puts a handle at the end of the line."""
        self._ready.append(handle)

    def _turn(self) -> None:
        ready = self._ready
        if not ready:
            timers = self._timers
            while timers and timers[0][2].done:
                heapq.heappop(timers)
            if not timers:
                raise Stuck("nothing is scheduled any more")
            self.now_s = max(self.now_s, timers[0][0])
            while timers and timers[0][0] <= self.now_s:
                ready.append(heapq.heappop(timers)[2])
        self.turns += 1
        if self.turns > self._turns_max:
            raise Stuck(f"not done after {self._turns_max} turns")
        handle = ready.popleft()
        if handle.done:
            return
        host = handle.context.get(HOST)
        if host is not None and host.state != "running":
            host.park(handle)
            return
        handle.done = True
        handle.context.run(handle.callback, *handle.args)

    # -- what asyncio asks of a loop

    def time(self) -> float:
        """Virtual seconds."""
        return self.now_s

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        """At the end of the line."""
        handle = Handle(self.now_s, callback, args, copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        """After so many virtual seconds."""
        return self.call_at(self.now_s + max(0.0, delay), callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        """At that virtual time; what is due at the same time runs in the order it was scheduled."""
        handle = Handle(when, callback, args, copy_context() if context is None else context)
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=cast(asyncio.AbstractEventLoop, self))

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **_: Any
    ) -> asyncio.Task[Any]:
        """A task of this loop, and of the host it is made by."""
        loop = cast(asyncio.AbstractEventLoop, self)
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, name=name or "task", context=context)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._tasks.append(task)
        if len(self._tasks) > 4096:
            self._tasks = [task for task in self._tasks if not task.done()]
        return task

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Always: it exists only while it runs."""
        return True

    def is_closed(self) -> bool:
        """Never."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keeps what nobody caught, for the judge."""
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _close_all(self) -> None:
        """Ends what a story left behind, so that nothing of it runs when it is forgotten."""
        for task in self._tasks:
            if not task.done():
                with suppress(RuntimeError, Exception):
                    task.get_coro().close()
        self._tasks = []
        self._ready.clear()
        self._timers.clear()
