"""A data directory's identity: whose stack it is now, which keys and ports are its own.

`stack.json` (mode 0600) holds the keys and ports; `stack.lock` is held while a stack runs on the directory.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path
from typing import IO, Any

from local.ports import free_port, is_free
from schemas.errors import ConfigurationError

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two stacks apart there
    fcntl = None  # type: ignore[assignment]

_KEY_BYTES = 32
"""Cosmos account keys are base64; 256 bits, as SAS keys."""


class DataDirectory:
    """Keys and ports, made up the first time and kept. Between `lock` and `unlock` the directory is ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path / "stack.json"
        self._lock: IO[str] | None = None
        self._known: dict[str, Any] = {}

    def lock(self) -> None:
        """Take the directory. Raises ConfigurationError where it cannot be written or another stack has it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "stack.lock").open("a+")
        except OSError as error:
            raise ConfigurationError(
                f"the data directory {self.path} cannot be used: {error.strerror}", where="METERLINE_DATA_DIR"
            ) from None
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                holder = lock.read().strip()
                lock.close()
                raise ConfigurationError(
                    f"a stack runs on {self.path} already (process {holder or 'unknown'})",
                    where="METERLINE_DATA_DIR",
                    hint="end that one, or choose another directory",
                ) from None
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock
        self._known = self._read()

    def unlock(self) -> None:
        """Give the directory back. Idempotent."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def key(self, name: str) -> str:
        """The key of that name: random, base64, the same for the life of the directory."""
        keys: dict[str, str] = self._known.setdefault("keys", {})
        if name not in keys:
            keys[name] = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
            self._write()
        return keys[name]

    def port(self, name: str) -> int:
        """The port of that name on 127.0.0.1: yesterday's if it is free, else a new one that is kept from now on."""
        ports: dict[str, int] = self._known.setdefault("ports", {})
        if name not in ports or not is_free(ports[name]):
            port = free_port()
            while port in ports.values():
                port = free_port()
            ports[name] = port
            self._write()
        return ports[name]

    def _read(self) -> dict[str, Any]:
        try:
            known = json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"{self._file} cannot be read: {error}",
                where="METERLINE_DATA_DIR",
                hint="remove the file: new keys and ports are made up then, messages and documents stay",
            ) from None
        return dict(known)

    def _write(self) -> None:
        assert self._lock is not None, "the directory is not ours"
        write_private(self._file, json.dumps(self._known, indent=1) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read (0600), whole or not at all: written beside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
