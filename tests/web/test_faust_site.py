"""Our routes live on the web server of Faust's worker, and Faust's own pages do not."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import faust
import pytest
from aiohttp.test_utils import unused_port

from schemas.errors import ConfigurationError
from settings import Settings
from tests.web.doubles import MemoryView, a_window
from web.faust_site import attach


def _faust_app(**options: Any) -> Any:
    return faust.App(
        "test-web",
        broker="kafka://127.0.0.1:1",
        store="memory://",
        web_bind="127.0.0.1",
        web_port=unused_port(),
        **options,
    )


async def test_the_routes_are_served_by_fausts_server_and_end_with_it() -> None:
    app = _faust_app()
    view = MemoryView(partials=[0, 1])
    view.put(a_window())
    attach(app, view, Settings())
    app.web.init_server()  # what `faust worker` does between loading the app and starting it
    await app.web.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{app.conf.web_port}") as http:
            async with http.get("/") as response:
                assert response.content_type == "text/html"
                assert "meterline" in await response.text()
            for path in ("/router/", "/table/", "/table/x/", "/graph/"):
                async with http.get(path) as response:
                    assert response.status == 404, path
            async with http.get("/v1/totals") as response:
                assert len((await response.json())["items"]) == 1
            async with http.get("/v1/live") as response:
                await response.content.readline()
                async with asyncio.timeout(10):
                    await app.web.stop()
    finally:
        await app.web.stop()
    assert not view.listeners


async def test_an_app_that_serves_from_a_thread_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="event loop"):
        attach(_faust_app(web_in_thread=True), MemoryView(), Settings())


async def test_attaching_too_late_is_refused() -> None:
    app = _faust_app()
    app.web.init_server()
    with pytest.raises(ConfigurationError, match="before the worker starts"):
        attach(app, MemoryView(), Settings())
