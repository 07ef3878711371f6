"""A Kafka broker of a page, on a real socket: it appends what is produced, and answers as it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Self

from aiokafka.protocol import admin, metadata, produce
from aiokafka.protocol.types import Int16, Int32, String
from aiokafka.record.memory_records import MemoryRecords

NODE = 1
_PRODUCE = 0
_SPOKEN = {
    _PRODUCE: (produce.ProduceRequest_v3, produce.ProduceResponse_v3),
    3: (metadata.MetadataRequest_v1, metadata.MetadataResponse_v1),
}
"""The one version of each request that it speaks."""


class ScriptedBroker:
    """`async with ScriptedBroker({"usage": 2}) as broker`.

    refusals: per topic and partition the error codes of the next produces; 0 appends. throttle_ms: what the next answers say.
    silent: produces get no answer while it is set.
    """

    def __init__(self, topics: dict[str, int]) -> None:
        self.topics = topics
        self.silent = False
        self.refusals: dict[tuple[str, int], list[int]] = {}
        self.throttle_ms: list[int] = []
        self.received: list[tuple[str, int, bytes]] = []
        """Every produce as it came: topic, partition, the bytes of its batch."""
        self.logs: dict[tuple[str, int], list[bytes]] = {}

    @property
    def bootstrap(self) -> str:
        """host:port."""
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                body = BytesIO(await reader.readexactly(size))
                key, version, correlation = Int16.decode(body), Int16.decode(body), Int32.decode(body)
                String("utf-8").decode(body)
                if key == _PRODUCE and self.silent:
                    continue
                answer = Int32.encode(correlation) + self._answer(key, version, body)
                writer.write(Int32.encode(len(answer)) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, key: int, version: int, body: BytesIO) -> bytes:
        if key == 18:
            spoken = [(18, 0, 0)] + [
                (k, request.API_VERSION, request.API_VERSION) for k, (request, _) in _SPOKEN.items()
            ]
            # Whatever version was asked: a broker that does not know it answers in version 0.
            return admin.ApiVersionResponse_v0(0 if version == 0 else 35, spoken).encode()
        request, response = _SPOKEN[key]
        assert version == request.API_VERSION
        asked: Any = request.decode(body)
        return bytes(response(*(self._metadata() if key == 3 else self._produce(asked.topics))).encode())

    def _metadata(self) -> Sequence[Any]:
        host, _, port = self.bootstrap.rpartition(":")
        topics = [(0, t, False, [(0, p, NODE, [NODE], [NODE]) for p in range(n)]) for t, n in self.topics.items()]
        return [(NODE, host, int(port), None)], NODE, topics

    def _produce(self, topics: Sequence[Any]) -> Sequence[Any]:
        answers = []
        for topic, partitions in topics:
            results = []
            for partition, raw in partitions:
                self.received.append((topic, partition, raw))
                codes = self.refusals.get((topic, partition))
                code = codes.pop(0) if codes else 0
                log = self.logs.setdefault((topic, partition), [])
                offset = len(log)
                if code == 0:
                    batches = MemoryRecords(raw)
                    while batches.has_next():
                        log += [record.value for record in batches.next_batch()]
                results.append((partition, code, offset if code == 0 else -1, -1))
            answers.append((topic, results))
        return answers, self.throttle_ms.pop(0) if self.throttle_ms else 0
