"""Partition keys: what a document's key is, how it travels in headers, and which physical partition it hashes to.

The effective partition key (EPK) is MurmurHash3-128 of the encoded value, top two bits cleared, as upper-case hex: the
same as in azure-cosmos 4.17.1 `partition_key.py`, whose client computes it for session tokens and feed ranges.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from local.cosmos.exceptions import bad_request

UNDEFINED: dict[str, Any] = {}
"""How an absent key value travels: `[{}]`."""

RANGES = (("0", "", "1FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"), ("1", "1FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF", "FF"))
"""The two physical partitions of every container: id, min (inclusive) and max (exclusive) EPK."""

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class KeyDefinition:
    """A container's partition key: its paths as lists of property names, and whether it is hierarchical."""

    paths: tuple[tuple[str, ...], ...]
    hierarchical: bool

    @staticmethod
    def of(definition: Mapping[str, Any]) -> KeyDefinition:
        """From a container's `partitionKey`; 400 for anything that is not one."""
        paths = definition.get("paths") if isinstance(definition, Mapping) else None
        if not isinstance(paths, list) or not paths or not all(isinstance(p, str) and p[:1] == "/" for p in paths):
            raise bad_request("The partition key paths must be a non-empty array of paths that begin with '/'.")
        hierarchical = definition.get("kind", "Hash") == "MultiHash"
        if len(paths) > (3 if hierarchical else 1):
            raise bad_request("Too many partition key paths: 1 for Hash, at most 3 for MultiHash.")
        return KeyDefinition(tuple(_split(path) for path in paths), hierarchical)

    def extract(self, document: Mapping[str, Any]) -> list[Any]:
        """The key of a document, one component per path; `{}` where the path leads nowhere."""
        return [_component(document, path) for path in self.paths]


def parse_header(text: str) -> list[Any]:
    """The components of `x-ms-documentdb-partitionkey`: a JSON array of scalars, or `{}` for absent."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, list) or any(isinstance(v, list) or (isinstance(v, dict) and v) for v in value):
        raise bad_request(f"Partition key {text[:200]} is invalid.")
    return value


def canonical(components: Sequence[Any]) -> str:
    """One text per key value: what items are stored and looked up by. `1` and `1.0` are one number, as in JSON."""
    return orjson.dumps(
        [float(c) if isinstance(c, int) and not isinstance(c, bool) else c for c in components]
    ).decode()


def epk(components: Sequence[Any], hierarchical: bool) -> str:
    """The effective partition key, upper-case hex; a prefix of a hierarchical key gives a prefix of the hex."""
    encoded = [_encode(component) for component in components]
    return "".join(_hash_hex(part) for part in encoded) if hierarchical else _hash_hex(b"".join(encoded))


def range_of(effective: str) -> str:
    """The id of the physical partition that holds an EPK."""
    return next(name for name, low, high in RANGES if low <= effective < high)


def _split(path: str) -> tuple[str, ...]:
    return tuple(part.strip('"') for part in path[1:].split("/"))


def _component(document: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = document
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return UNDEFINED
        value = value[name]
    if isinstance(value, list | dict):
        raise bad_request("Partition key must be a string, number, boolean or null.")
    return value


def _encode(value: Any) -> bytes:
    if value is True:
        return b"\x03"
    if value is False:
        return b"\x02"
    if value is None:
        return b"\x01"
    if isinstance(value, int | float):
        return b"\x05" + struct.pack("<d", float(value))
    if isinstance(value, str):
        return b"\x08" + value.encode() + b"\xff"
    return b"\x00"


@lru_cache(maxsize=65_536)
def _hash_hex(data: bytes) -> str:
    low, high = murmur3_128(data)
    hashed = bytearray((high << 64 | low).to_bytes(16, "big"))
    # The two highest bits are free so that "FF" is above every key.
    hashed[0] &= 0x3F
    return hashed.hex().upper()


def murmur3_128(data: bytes) -> tuple[int, int]:
    """MurmurHash3 x64 128 with seed 0: the low and the high 64 bits (Austin Appleby's reference)."""
    c1, c2 = 0x87C37B91114253D5, 0x4CF5AD432745937F
    h1 = h2 = 0
    whole = len(data) - len(data) % 16
    for k1, k2 in struct.iter_unpack("<QQ", data[:whole]):
        h1 ^= _rotl(k1 * c1 & _MASK, 31) * c2 & _MASK
        h1 = ((_rotl(h1, 27) + h2) * 5 + 0x52DCE729) & _MASK
        h2 ^= _rotl(k2 * c2 & _MASK, 33) * c1 & _MASK
        h2 = ((_rotl(h2, 31) + h1) * 5 + 0x38495AB5) & _MASK
    k1, k2 = struct.unpack("<QQ", data[whole:].ljust(16, b"\0"))
    h2 ^= _rotl(k2 * c2 & _MASK, 33) * c1 & _MASK
    h1 ^= _rotl(k1 * c1 & _MASK, 31) * c2 & _MASK
    h1 ^= len(data)
    h2 ^= len(data)
    h1 = (h1 + h2) & _MASK
    h2 = (h2 + h1) & _MASK
    h1, h2 = _mix(h1), _mix(h2)
    h1 = (h1 + h2) & _MASK
    return h1, (h2 + h1) & _MASK


def _rotl(x: int, r: int) -> int:
    return (x << r | x >> (64 - r)) & _MASK


def _mix(k: int) -> int:
    k = (k ^ k >> 33) * 0xFF51AFD7ED558CCD & _MASK
    k = (k ^ k >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return k ^ k >> 33


def rid_of(container_rid: str, number: int) -> str:
    """The resource id of a container's item number `number`: the container's 8 bytes and 8 of its own."""
    raw = base64.b64decode(container_rid.replace("-", "/")) + number.to_bytes(8, "little")
    return base64.b64encode(raw).decode().replace("/", "-")
