"""Flow control, straight on the wire: credit, drain, windows and frame sizes are kept to, whatever an SDK happens to do."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote_plus

import pytest
from azure.servicebus import ServiceBusMessage

from local.servicebus import codec
from local.servicebus.codec import Frame
from tests.local.servicebus_world import KEY, KEY_NAME, World, world

RECEIVER = 5


class Raw:
    """A client of a few frames: one session, one receiver on the queue `plain`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._framer = codec.Framer(1 << 20)
        self.frames: list[Frame] = []
        self._session: list[bytes] = []  # the session's half of the last flow that was sent

    def send(self, code: int, *fields: bytes, payload: bytes = b"") -> None:
        self._writer.write(codec.frame(0, codec.composite(code, *fields), payload))

    async def until(self, code: int, count: int = 1) -> list[Frame]:
        """Read until that many frames of a kind have come; they are taken out of `frames`."""
        while sum(frame.code == code for frame in self.frames) < count:
            data = await asyncio.wait_for(self._reader.read(65536), 10)
            assert data, f"hung up: {self.frames}"
            self.frames += [item for item in self._framer.feed(data) if isinstance(item, Frame)]
        got = [frame for frame in self.frames if frame.code == code]
        self.frames = [frame for frame in self.frames if frame.code != code]
        return got

    async def settled(self) -> list[Frame]:
        """Whatever has come by the time the server answers an echo on the session."""
        self.send(codec.FLOW, *self._session, *[codec.NULL] * 4, codec.FALSE, codec.TRUE)
        await self.until(codec.FLOW)
        return self.frames

    def credit(self, credit: int, *, seen: int = 0, window: int = 1000, incoming: int = 0, drain: bool = False) -> None:
        self._session = [codec.uint(incoming), codec.uint(window), codec.uint(0), codec.uint(100)]
        link = [codec.uint(RECEIVER), codec.uint(seen), codec.uint(credit), codec.NULL, codec.boolean(drain)]
        self.send(codec.FLOW, *self._session, *link)


@asynccontextmanager
async def raw(bus: World, *, window: int = 1000, max_frame: int = 65536) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", bus.server.port)
    client = Raw(reader, writer)
    init = codec.composite(codec.SASL_INIT, codec.symbol("ANONYMOUS"))
    writer.write(codec.SASL_PROTOCOL + codec.frame(0, init, frame_type=codec.SASL_FRAME) + codec.AMQP_PROTOCOL)
    client.send(codec.OPEN, codec.string("c"), codec.NULL, codec.uint(max_frame))
    client.send(codec.BEGIN, codec.NULL, codec.uint(0), codec.uint(window), codec.uint(100))
    _attach(client, 0, "$cbs", receiving=False)
    resource, expiry = quote_plus("sb://h/plain"), str(int(time.time()) + 600)
    signature = base64.b64encode(hmac.new(KEY.encode(), f"{resource}\n{expiry}".encode(), hashlib.sha256).digest())
    token = f"SharedAccessSignature sr={resource}&sig={quote_plus(signature)}&se={expiry}&skn={KEY_NAME}"
    pairs = [(codec.string("operation"), codec.string("put-token")), (codec.string("name"), codec.string("plain"))]
    request = codec.composite(codec.PROPERTIES, codec.string("1"))
    request += codec.described(codec.APPLICATION_PROPERTIES, codec.map_of(pairs))
    request += codec.described(codec.VALUE, codec.string(token))
    client.send(codec.TRANSFER, codec.uint(0), codec.uint(0), codec.binary(b"t"), codec.uint(0), payload=request)
    await client.until(codec.DISPOSITION)
    _attach(client, RECEIVER, "plain", receiving=True)
    await client.until(codec.ATTACH, 2)
    client.frames.clear()
    try:
        yield client
    finally:
        writer.close()


def _attach(client: Raw, handle: int, address: str, *, receiving: bool) -> None:
    source, target = (codec.composite(code, codec.string(address)) for code in (codec.SOURCE, codec.TARGET))
    settle = [codec.ubyte(0), codec.ubyte(1 if receiving else 0)]
    name = codec.string(f"link-{handle}")
    client.send(codec.ATTACH, name, codec.uint(handle), codec.boolean(receiving), *settle, source, target)


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as running:
        await running.send("plain", *[ServiceBusMessage(b"%d" % number) for number in range(10)])
        yield running


async def test_a_receiver_is_given_as_many_as_its_credit_and_no_more(bus: World) -> None:
    async with raw(bus) as client:
        client.credit(3)
        assert len(await client.until(codec.TRANSFER, 3)) == 3
        assert [frame.code for frame in await client.settled()] == []
        client.credit(3, seen=1)  # said before the other two were seen: one more is all this allows
        assert len(await client.until(codec.TRANSFER)) == 1
        assert [frame.code for frame in await client.settled()] == []


async def test_a_draining_receiver_is_given_what_there_is_and_its_credit_is_used_up(bus: World) -> None:
    async with raw(bus) as client:
        client.credit(25, drain=True)
        (flow,) = await client.until(codec.FLOW)
        assert sum(frame.code == codec.TRANSFER for frame in client.frames) == 10
        delivery_count, credit, _, drain = flow.fields[5:9]
        assert (delivery_count, credit, drain) == (25, 0, True)
        client.frames.clear()
        await bus.send("plain", ServiceBusMessage(b"later"))
        assert [frame.code for frame in await client.settled()] == []


async def test_a_full_session_window_holds_transfers_back_and_locks_no_more_than_one(bus: World) -> None:
    async with raw(bus, window=2) as client:
        client.credit(10, window=2)
        await client.until(codec.TRANSFER, 2)
        assert [frame.code for frame in await client.settled()] == []
        assert len(bus.server._entities["plain"]._locks) == 3
        client.credit(10, window=100, incoming=2)
        assert len(await client.until(codec.TRANSFER, 8)) == 8


async def test_no_frame_is_larger_than_the_client_allows(tmp_path: Path) -> None:
    async with world(tmp_path) as bus:
        await bus.send("plain", ServiceBusMessage(b"x" * 5000))
        async with raw(bus, max_frame=1024) as client:
            client.credit(1)
            pieces: list[Frame] = []
            while not pieces or pieces[-1].fields[5]:
                pieces += await client.until(codec.TRANSFER)
            assert max(len(piece.body) for piece in pieces) + 8 <= 1024 and len(pieces) > 5
            assert b"x" * 5000 in b"".join(piece.payload for piece in pieces)
            assert {piece.fields[1] for piece in pieces} == {pieces[0].fields[1]}


async def test_a_client_that_asks_for_heartbeats_gets_them(tmp_path: Path) -> None:
    async with world(tmp_path) as bus:
        reader, writer = await asyncio.open_connection("127.0.0.1", bus.server.port)
        init = codec.composite(codec.SASL_INIT, codec.symbol("ANONYMOUS"))
        writer.write(codec.SASL_PROTOCOL + codec.frame(0, init, frame_type=codec.SASL_FRAME) + codec.AMQP_PROTOCOL)
        fields = [codec.string("c"), codec.NULL, codec.uint(4096), codec.NULL, codec.uint(100)]
        writer.write(codec.frame(0, codec.composite(codec.OPEN, *fields)))
        got = b""
        while got.count(codec.HEARTBEAT) < 3:
            data = await asyncio.wait_for(reader.read(4096), 10)
            assert data
            got += data
        writer.close()
