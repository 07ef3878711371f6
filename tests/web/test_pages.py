"""Every answer is safe in a browser, and every error is a problem document."""

from __future__ import annotations

import re

from aiohttp import web

from tests.web.doubles import MemoryView, workers
from tests.web.test_ingest import MemoryTopic
from web.openapi import document

PATHS = ("/", "/static/app.css", "/v1/totals", "/v1/audit", "/v1/status", "/healthz", "/readyz", "/metrics", "/nowhere")


async def test_every_answer_has_the_security_headers() -> None:
    async with workers(MemoryView(partials=[0, 1])) as (worker,):
        for path in PATHS:
            async with worker.http.get(path) as response:
                assert response.headers["X-Content-Type-Options"] == "nosniff", path
                assert "default-src 'none'" in response.headers["Content-Security-Policy"], path
                assert "Access-Control-Allow-Origin" not in response.headers, path
        async with worker.http.get("/v1/live") as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_page_loads_nothing_from_elsewhere() -> None:
    async with workers(MemoryView()) as (worker,):
        async with worker.http.get("/") as response:
            assert response.content_type == "text/html"
            page = await response.text()
        names = re.findall(r'(?:src|href)="([^"#]+)"', page)
        assert "/static/app.css" in names
        for name in names:
            if name.startswith("/static/"):
                async with worker.http.get(name) as response:
                    assert response.status == 200, name
                    text = await response.text()
                # Links for people are not loads; url(), @import and import are.
                assert not re.search(r"""(?:url\(|@import|from)\s*['"]?(?:https?:)?//""", text), name
    assert not re.search(r"""(?:src|<link[^>]+href)="(?:https?:)?//""", page)
    assert "<script>" not in page and "style=" not in page and "onclick" not in page, "the policy forbids inline code"


async def test_files_are_revalidated_by_etag() -> None:
    async with workers(MemoryView()) as (worker,):
        async with worker.http.get("/static/app.css") as response:
            tag = response.headers["ETag"]
        async with worker.http.get("/static/app.css", headers={"If-None-Match": tag}) as response:
            assert response.status == 304


async def test_no_path_reaches_the_disk() -> None:
    async with workers(MemoryView()) as (worker,):
        for path in ("/static/", "/static/..%2Froutes.py", "/static/%2e%2e/view.py", "/static/nothing.css"):
            await worker.get(path, 404)


async def test_unknown_paths_and_methods_are_problem_documents() -> None:
    async with workers(MemoryView()) as (worker,):
        assert "/openapi.json" in (await worker.get("/v2/totals", 404))["hint"]
        async with worker.http.delete("/v1/totals") as response:
            problem = await response.json(content_type="application/problem+json")
    assert (response.status, problem["status"]) == (405, 405)
    assert "GET" in response.headers["Allow"]


async def test_an_unforeseen_error_tells_nothing_of_the_inside() -> None:
    view = MemoryView()
    view.audit = None  # type: ignore[assignment, method-assign]
    async with workers(view) as (worker,):
        problem = await worker.get("/v1/audit", 500)
    assert "NoneType" not in str(problem)
    assert problem["hint"]


async def test_the_openapi_document_names_exactly_the_routes_there_are() -> None:
    topic = MemoryTopic()
    async with workers(MemoryView(), publish=topic.publish) as (worker,):
        app: web.Application = worker.app
        routes = {(r.method.lower(), r.resource.canonical) for r in app.router.routes() if r.resource is not None}
        served = {(m, p) for m, p in routes if m != "head" and p not in ("/", "/openapi.json") and "/static/" not in p}
        assert (await worker.get("/openapi.json"))["openapi"] == "3.1.0"
    assert {(method, path) for path, item in document()["paths"].items() for method in item} == served


async def test_the_openapi_parameters_are_those_that_the_handlers_know() -> None:
    async with workers(MemoryView(partials=[0, 1])) as (worker,):
        for path, item in document()["paths"].items():
            if "get" not in item or path == "/metrics":
                continue
            problem = await worker.get(path.replace("{id}", "x") + "?nonsense=1", 400)
            listed = {p["name"] for p in item["get"]["parameters"] if p["in"] == "query"}
            assert set(problem["hint"].removeprefix("known are: ").split(", ")) == listed | {"local"}, path
