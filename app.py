"""meterline: the Faust app, its rooms wired together, and the command line (`python app.py --help`).

`app` is what `faust -A app worker` starts; it is built from the settings when it is first asked for, so that `--help`
and the other commands need no broker and no meters file.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    globals()["app"] = built = _wired()
    return built


def _wired() -> Any:
    import settings as configuration
    from streams.faust_app import build
    from streams.view import WorkerView
    from web.faust_site import attach

    settings = configuration.load()
    built = build(settings)
    worker = built.worker

    async def publish(key: bytes | None, value: bytes) -> tuple[int, int]:
        return await worker.broker.publish(settings.usage_topic, key, value)

    attach(built, WorkerView(worker, lambda: built.owners), settings, publish=publish)
    return built


if __name__ == "__main__":
    from cli.main import main

    main()
