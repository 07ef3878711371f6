"""A headless Chromium, spoken to over its DevTools protocol: no driver and no library besides aiohttp."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
WAIT_S = 30

_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class Page:
    """One tab. `problems`: what the console and the network complained about."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.get_running_loop().create_task(self._read())
        self.problems: list[str] = []

    async def open(self, url: str, width: int = 1440, height: int = 1000, dark: bool = False) -> None:
        """Loads `url` in a window of that size and colour scheme."""
        for domain in ("Page", "Runtime", "Log"):
            await self.send(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.send("Emulation.setDeviceMetricsOverride", **size)
        await self.send("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression; promises are awaited."""
        answer = await self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Waits until the expression is true; while what it looks at is not there yet, it is not."""
        asked = f"(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()"
        try:
            async with asyncio.timeout(WAIT_S):
                while not await self.evaluate(asked):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            text = await self.evaluate("document.body.innerText")
            raise AssertionError(f"never true: {expression}\n{self.problems}\n{text}") from None

    async def text(self, selector: str) -> str:
        """What a person reads there."""
        return str(await self.evaluate(f"document.querySelector({selector!r}).innerText"))

    async def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        shot = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    async def send(self, method: str, **params: Any) -> Any:
        """One command of the protocol, and its result."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            await self._socket.send_json({"id": number, "method": method, "params": params})
            async with asyncio.timeout(WAIT_S):
                return await answer
        finally:
            del self._answers[number]

    async def close(self) -> None:
        """Idempotent."""
        self._reading.cancel()
        await self._socket.close()

    async def _read(self) -> None:
        async for message in self._socket:
            told = message.json()
            waiting = self._answers.get(told.get("id", 0))
            if waiting is not None and not waiting.done():
                if "error" in told:
                    waiting.set_exception(AssertionError(told["error"]))
                else:
                    waiting.set_result(told["result"])
            elif told.get("method") == "Runtime.exceptionThrown":
                details = told["params"]["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description", details["text"]))
            elif told.get("method") == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
                self.problems.append(told["params"]["entry"]["text"])


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Page]:
    """A browser with one page; ended, with everything it wrote, afterwards."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            CHROMIUM,
            *_ARGUMENTS,
            f"--user-data-dir={profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with aiohttp.ClientSession() as http:
                port = await _port(Path(profile) / "DevToolsActivePort", process)
                async with http.get(f"http://127.0.0.1:{port}/json/list") as response:
                    target = next(t for t in await response.json() if t["type"] == "page")
                page = Page(await http.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0))
                try:
                    yield page
                finally:
                    await page.close()
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _port(file: Path, process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(WAIT_S):
        while process.returncode is None:
            with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
                return int(file.read_text().split()[0])
            await asyncio.sleep(0.02)
    raise AssertionError(f"Chromium ended with {process.returncode}")
