"""What waits as JSON takes as much memory as it is long."""

from __future__ import annotations

import subprocess
import sys

import orjson
import pytest

from schemas.compact import compact

_HOLDING = """
from schemas.compact import compact

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

document = {"reason": "malformed", "detail": "x" * 200, "offset": 5}
before = resident()
held = [compact(document) for _ in range(20_000)]
print((resident() - before) // len(held))
"""


def test_it_is_the_json_of_orjson() -> None:
    document = {"reason": "malformed", "count": 5, "text": "\u00e9"}
    assert compact(document) == orjson.dumps(document)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_what_is_held_takes_no_more_than_a_little_room_besides() -> None:
    """orjson's own bytes hold 4 KB and more each."""
    ran = subprocess.run([sys.executable, "-c", _HOLDING], stdout=subprocess.PIPE, text=True, check=True)
    assert int(ran.stdout) < 1_000
