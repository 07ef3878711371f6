"""Child processes of laptop mode: logging to a file, ended by pid, and not outliving us."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from schemas.errors import BrokerError

TAIL_LINES = 20
LOG_MAX_BYTES = 16 * 1024 * 1024
_POLL_S = 0.05


class Child:
    """One child process. Its output goes to `log`, appended; `exited` is awaited to learn that it died.

    name: for people. environ: variables added to ours (secrets go there, not on the command line, which all can read).
    stopping: set where its end is wanted, so that nobody takes it for a death. A log of an earlier process that has
    grown beyond LOG_MAX_BYTES is begun anew.

    shielded: a terminal's Ctrl-C does not reach it (it has a process group of its own); when it ends, its parent says.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environ: Mapping[str, str] | None = None,
        shielded: bool = False,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.environ = dict(environ or {})
        self.stopping = False
        self._shielded = shielded
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id. Only after `start`."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Its exit code (negative: the signal), or None while it runs."""
        return None if self._process is None else self._process.poll()

    async def start(self) -> None:
        """Start it. A program that cannot be executed ends at once or raises BrokerError here; `until` tells the first."""
        assert not self.running, f"{self.name} runs already"
        self.stopping = False
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self._process is None and self.log.exists() and self.log.stat().st_size > LOG_MAX_BYTES:
            self.log.unlink()
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            try:
                # Not asyncio's own: those can be awaited only on the loop that started them; tests have many loops.
                self._process = subprocess.Popen(  # noqa: ASYNC220 - fork and exec, a few milliseconds
                    _launched(self.command),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self.environ},
                    process_group=0 if self._shielded else None,
                )
            except OSError as error:
                raise BrokerError(f"{self.name} could not be started: {error.strerror}: {self.command[0]}") from None

    async def until(self, ready: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
        """Wait until `ready`. Raises BrokerError with the log's tail if the process ends before, or time runs out."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            if not self.running:
                raise BrokerError(self.obituary())
            if await ready():
                return
            if asyncio.get_running_loop().time() > deadline:
                raise BrokerError(f"{self.name} did not answer within {timeout_s:.0f} s\n{self.tail()}")
            await asyncio.sleep(_POLL_S)

    async def exited(self) -> int:
        """Wait until it has ended; its exit code."""
        assert self._process is not None, f"{self.name} was not started"
        while (code := self._process.poll()) is None:  # noqa: ASYNC110 - the kernel sets no asyncio.Event
            await asyncio.sleep(_POLL_S)
        return code

    async def stop(self, grace_s: float = 5.0) -> None:
        """SIGTERM, and SIGKILL after `grace_s`; returns when it is gone. Idempotent."""
        self.stopping = True
        if not self.running:
            return
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.exited(), grace_s)
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL, as a crash would be; returns when it is gone. Not a stop: it counts as a death."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            await self.exited()

    def signal(self, number: int) -> None:
        """Send a signal to it, if it still runs. After SIGSTOP it stands still: returns once all its threads do."""
        if self._process is None:
            return
        self._process.send_signal(number)  # polls first, so never another process with its old id
        if number == signal.SIGSTOP and self.running and hasattr(os, "waitid"):  # macOS has it from Python 3.13
            # Its threads learn of it as they are scheduled: on a busy machine they work on for 10 ms and more.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def said(self, text: str) -> bool:
        """Whether its output since this start has a line with `text`, whole."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return any(text.encode() in line and line.endswith(b"\n") for line in log)

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of its log."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(self._log_start, self.log.stat().st_size - 64 * 1024))
                text = log.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def obituary(self) -> str:
        """One line on how it ended, then the tail of its log."""
        code = self.returncode
        how = "was not started" if code is None else f"ended with exit code {code}" if code >= 0 else _by_signal(code)
        return f"{self.name} {how}; the end of {self.log}:\n{self.tail()}"


def _by_signal(code: int) -> str:
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _launched(command: list[str]) -> list[str]:
    """The command, started so that the kernel ends it should our process be killed without a chance to clean up.

    By SIGKILL, because nobody is left then to follow a SIGTERM up; what the servers acknowledged is on disk by then.
    Linux only; asked for in the child's own program, since Python code between fork and exec can deadlock where the
    parent has threads. The kernel watches the thread that starts the child: start children from one that stays.
    """
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]


_LAUNCHER = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)  # it died before we asked
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""
