"""What an item is: its limits, its system properties, preconditions and patch. Pure.

Limits (learn.microsoft.com/azure/cosmos-db/concepts-limits): item 2 MB of UTF-8 JSON, id 1023 bytes without `/ \\ ? #`,
partition key value 2048 bytes, 10 operations per patch. Numbers are doubles, so an integer beyond 2^53 is rounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from local.cosmos.exceptions import bad_request, precondition_failed, too_large

ITEM_MAX_BYTES = 2 * 1024 * 1024
ID_MAX_BYTES = 1023
KEY_MAX_BYTES = 2048
PATCH_MAX_OPERATIONS = 10
SYSTEM_PROPERTIES = ("_rid", "_self", "_etag", "_attachments", "_ts")

_FORBIDDEN_IN_ID = re.compile(r"[/\\?#]")
_LONG_NUMBER = re.compile(rb"\d{16}")
_EXACT = 2**53


def decode(raw: bytes) -> Any:
    """The JSON value of a request body; 400 for what is not JSON."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise bad_request("The request payload is invalid. Ensure to provide a valid request payload.") from None
    return _as_doubles(value) if _LONG_NUMBER.search(raw) else value


def check_document(document: Any) -> dict[str, Any]:
    """The document, when it is one that can be stored: an object with a fitting id, within 2 MB (else 400 or 413)."""
    if not isinstance(document, dict):
        raise bad_request("The input content is invalid because it is not a JSON object.")
    if "id" not in document:
        raise bad_request("The input content is invalid because the required properties - 'id; ' - are missing")
    check_id(document["id"])
    if len(orjson.dumps(document)) > ITEM_MAX_BYTES:
        raise too_large()
    return document


def check_id(identifier: Any) -> str:
    """A resource id: text of 1 to 1023 bytes without `/ \\ ? #`, not ending in a space (else 400)."""
    if not isinstance(identifier, str) or not identifier:
        raise bad_request("The input name '' is invalid. Ensure to provide a unique non-empty string.")
    if _FORBIDDEN_IN_ID.search(identifier) or identifier.endswith(" "):
        raise bad_request(
            f"The input name '{identifier[:64]}' is invalid because it contains '/', '\\', '?', '#' or ends with a space."
        )
    if len(identifier.encode()) > ID_MAX_BYTES:
        raise bad_request(
            f"The input id is {len(identifier.encode())} bytes long, the maximum is {ID_MAX_BYTES} bytes."
        )
    return identifier


def check_key(extracted: Sequence[Any], given: Sequence[Any] | None) -> None:
    """400 unless the key in the header is there, is the document's own, and is not too long."""
    if given is None:
        raise bad_request("PartitionKey value must be supplied for this operation.")
    if list(extracted) != list(given):
        raise bad_request(
            "PartitionKey extracted from document doesn't match the one specified in the header."
            " Learn more: https://aka.ms/CosmosDB/sql/errors/wrong-pk-value",
            substatus=1001,
        )
    if any(isinstance(part, str) and len(part.encode()) > KEY_MAX_BYTES for part in extracted):
        raise bad_request(f"The partition key supplied is longer than {KEY_MAX_BYTES} bytes.")


def check_match(current: Mapping[str, Any] | None, if_match: str | None, if_none_match: str | None) -> None:
    """412 unless the preconditions of a write hold for the item as it stands (None: there is none).

    `*` in If-Match means "exists", in If-None-Match "does not exist".
    """
    etag = current["_etag"] if current is not None else None
    if if_match is not None and (etag is None or if_match not in ("*", etag)):
        raise precondition_failed()
    if if_none_match is not None and etag is not None and if_none_match in ("*", etag):
        raise precondition_failed()


def stamped(document: Mapping[str, Any], *, rid: str, link: str, etag: str, ts: int) -> dict[str, Any]:
    """The document with the system properties it is stored and returned with, the given ones replaced."""
    own = {name: value for name, value in document.items() if name not in SYSTEM_PROPERTIES}
    return {**own, "_rid": rid, "_self": link, "_etag": etag, "_attachments": "attachments/", "_ts": ts}


def priority(document: Mapping[str, Any], path: str) -> float:
    """The number at a conflictResolutionPath; -inf when there is none, so that such a version loses."""
    value: Any = document
    for name in path.strip("/").split("/"):
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else -math.inf


def patched(document: Mapping[str, Any], operations: Any, key_paths: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A copy of the document after the patch's operations, in order; 400 for any that does not apply."""
    if not isinstance(operations, list) or not operations:
        raise bad_request("Patch request has no operations.")
    if len(operations) > PATCH_MAX_OPERATIONS:
        raise bad_request(f"The number of patch operations can't exceed {PATCH_MAX_OPERATIONS}.")
    result: dict[str, Any] = orjson.loads(orjson.dumps(document))
    for index, operation in enumerate(operations):
        if not isinstance(operation, Mapping) or not isinstance(operation.get("path"), str):
            raise bad_request(f"Patch operation {index} is not an object with 'op' and 'path'.")
        path = _pointer(operation["path"], index)
        if path[0] in ("id", *SYSTEM_PROPERTIES) or any(list(key[: len(path)]) == path for key in key_paths):
            raise bad_request(f"For operation {index}: '{operation['path']}' can not be updated by patch.")
        _apply(result, operation, path, index)
    return result


def _apply(root: dict[str, Any], operation: Mapping[str, Any], path: list[str], index: int) -> None:
    kind = operation.get("op")
    if kind == "move":
        source = _pointer(operation.get("from", ""), index)
        value = _remove(root, source, index)
        _put(root, path, value, index, insert=True)
    elif kind == "remove":
        _remove(root, path, index)
    elif kind in ("add", "set", "replace", "incr", "increment"):
        if "value" not in operation:
            raise bad_request(f"Patch operation {index} ('{kind}') has no 'value'.")
        value = operation["value"]
        if kind in ("incr", "increment"):
            present = _get(root, path)
            if not _is_number(value) or (present is not None and not _is_number(present)):
                raise bad_request(f"For operation {index}: incr is for numbers only.")
            value = value + (present or 0)
        if kind == "replace" and not _exists(root, path):
            raise bad_request(f"For Replace Operation({index}): Given Operation can't be used on a non-existing path.")
        _put(root, path, value, index, insert=kind == "add")
    else:
        raise bad_request(f"Patch operation {index} has an unknown 'op': {str(kind)[:32]!r}.")


def _pointer(path: str, index: int) -> list[str]:
    if not isinstance(path, str) or path[:1] != "/" or path == "/":
        raise bad_request(f"Patch operation {index} has an invalid path.")
    return [part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/")]


def _parent(root: Any, path: list[str], index: int) -> Any:
    node = root
    for name in path[:-1]:
        node = _child(node, name)
        if not isinstance(node, dict | list):
            raise bad_request(f"For operation {index}: the path's parent '/{'/'.join(path[:-1])}' does not exist.")
    return node


def _child(node: Any, name: str) -> Any:
    if isinstance(node, dict):
        return node.get(name)
    if isinstance(node, list) and name.isdigit() and int(name) < len(node):
        return node[int(name)]
    return None


def _get(root: Any, path: list[str]) -> Any:
    node = root
    for name in path:
        node = _child(node, name)
    return node


def _exists(root: Any, path: list[str]) -> bool:
    parent = _get(root, path[:-1])
    if isinstance(parent, dict):
        return path[-1] in parent
    return isinstance(parent, list) and path[-1].isdigit() and int(path[-1]) < len(parent)


def _put(root: Any, path: list[str], value: Any, index: int, *, insert: bool) -> None:
    parent, name = _parent(root, path, index), path[-1]
    if isinstance(parent, dict):
        parent[name] = value
    elif name == "-" or (name.isdigit() and int(name) == len(parent)):
        parent.append(value)
    elif name.isdigit() and int(name) < len(parent):
        if insert:
            parent.insert(int(name), value)
        else:
            parent[int(name)] = value
    else:
        raise bad_request(f"For operation {index}: '{name}' is not an index of the array.")


def _remove(root: Any, path: list[str], index: int) -> Any:
    if not _exists(root, path):
        raise bad_request(f"For Remove Operation({index}): Given Operation can't be used on a non-existing path.")
    parent = _get(root, path[:-1])
    return parent.pop(path[-1]) if isinstance(parent, dict) else parent.pop(int(path[-1]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_doubles(value: Any) -> Any:
    """Integers beyond 2^53 as a double holds them, so that nobody relies on digits that Azure would not keep."""
    if isinstance(value, dict):
        return {name: _as_doubles(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_as_doubles(part) for part in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _EXACT:
        return float(value)
    return value
