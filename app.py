"""meterline: the Faust app, its rooms wired together, and the command line (`python app.py --help`).

`app` is what `faust -A app worker` starts; it is built from the settings when it is first asked for, so that `--help`
and the other commands need no broker and no meters file.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(name)
    from streams.faust_app import build

    globals()["app"] = built = build()
    return built


if __name__ == "__main__":
    from cli.main import main

    main()
