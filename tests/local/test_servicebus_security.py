"""Who may come in, and what a stranger or a broken client can do: nothing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from azure.core.credentials import AzureSasCredential
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import MessagingEntityNotFoundError, ServiceBusAuthenticationError, ServiceBusError

from local.servicebus import codec
from local.servicebus.cbs import Authority, path_of, put_token
from local.servicebus.errors import Refusal
from local.servicebus.message import Request
from local.servicebus.server import QueueConfig, ServiceBusConfig
from tests.local.servicebus_world import KEY, KEY_NAME, SHORT, World, bodies, client_of, world

OTHER_KEY = "b3RoZXIga2V5IDAxMjM0NTY3ODkwMTIzNA=="


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as running:
        yield running


def token(resource: str, key: str = KEY, name: str = KEY_NAME, expires_s: float | None = None) -> str:
    encoded = quote_plus(resource)
    expiry = str(int(time.time() + 600 if expires_s is None else expires_s))
    signature = hmac.new(key.encode(), f"{encoded}\n{expiry}".encode(), hashlib.sha256).digest()
    sig = quote_plus(base64.b64encode(signature))
    return f"SharedAccessSignature sr={encoded}&sig={sig}&se={expiry}&skn={name}"


async def send_as(bus: World, connection_string: str, queue: str = "plain") -> None:
    async with client_of(connection_string) as client, client.get_queue_sender(queue) as sender:
        await sender.send_messages(ServiceBusMessage(b"x"), timeout=10)


async def test_a_wrong_key_or_key_name_is_refused(bus: World) -> None:
    right = bus.server.connection_string
    for wrong in (right.replace(KEY, OTHER_KEY), right.replace(f"Name={KEY_NAME}", "Name=root")):
        with pytest.raises(ServiceBusAuthenticationError):
            await send_as(bus, wrong)
    assert await bus.drain("plain") == []


@pytest.mark.parametrize("wrong", [{"key": OTHER_KEY}, {"name": "root"}])
def test_a_wrong_signature_is_a_401_in_azures_words(wrong: dict[str, Any]) -> None:
    """The Python SDK shows no text where an answer carries an error condition, as Azure's do; others do show it."""
    properties = {"operation": b"put-token", "name": b"sb://h/plain", "type": b"jwt"}
    asked = Request(codec.NULL, None, properties, token("sb://h/plain", **wrong).encode(), codec.NULL)
    with pytest.raises(Refusal, match=r"InvalidSignature: The token has an invalid signature\.") as refused:
        put_token(asked, Authority(KEY_NAME, KEY), time.time())
    assert refused.value.status == 401


def test_an_expired_token_is_refused() -> None:
    authority = Authority(KEY_NAME, KEY)
    with pytest.raises(Refusal, match=r"ExpiredToken: The token is expired. Expiration time: '2001-09-09 01:46:40Z'"):
        authority.verify(token("sb://127.0.0.1/plain", expires_s=1e9), "sb://127.0.0.1/plain", time.time())


def test_a_token_for_one_queue_does_not_open_another() -> None:
    authority, now = Authority(KEY_NAME, KEY), time.time()
    for audience in ("sb://h/plain", "amqps://h/Plain/$management", "sb://h:5672/plain/"):
        assert authority.verify(token("sb://h/plain"), audience, now).covers("plain", now)
    for audience in ("sb://h/other", "sb://h/plainer", "sb://h"):
        with pytest.raises(Refusal, match="InvalidAudience"):
            authority.verify(token("sb://h/plain"), audience, now)
    assert authority.verify(token("sb://h/"), "sb://h/anything", now).covers("anything", now)


@pytest.mark.parametrize(
    "broken", ["", "x", "SharedAccessSignature ", "SharedAccessSignature sr=a&sig=b&se=c", "a b=c"]
)
def test_a_malformed_token_is_refused(broken: str) -> None:
    with pytest.raises(Refusal, match="MalformedToken"):
        Authority(KEY_NAME, KEY).verify(broken, "sb://h/q", 0)


def test_a_tampered_expiry_breaks_the_signature() -> None:
    genuine = token("sb://h/q", expires_s=2e9)
    with pytest.raises(Refusal, match="InvalidSignature"):
        Authority(KEY_NAME, KEY).verify(genuine.replace("se=2000000000", "se=3000000000"), "sb://h/q", 0)


async def test_a_token_for_one_queue_lets_nobody_send_to_another(bus: World) -> None:
    async with _client_with(bus, token(f"sb://127.0.0.1:{bus.server.port}/invoicing")) as client:
        with pytest.raises(ServiceBusAuthenticationError):
            async with client.get_queue_sender("plain") as sender:
                await sender.send_messages(ServiceBusMessage(b"x"), timeout=5)
        async with client.get_queue_sender("invoicing") as sender:
            await sender.send_messages(ServiceBusMessage(b"x", session_id="s"), timeout=5)


def _client_with(bus: World, signature: str) -> ServiceBusClient:
    return ServiceBusClient(f"127.0.0.1:{bus.server.port}", AzureSasCredential(signature), retry_total=0, use_tls=False)


async def test_links_end_when_their_token_does(bus: World) -> None:
    await bus.send("plain", ServiceBusMessage(b"x"))
    async with bus.client.get_queue_receiver("plain") as receiver:
        await receiver.receive_messages(1, max_wait_time=5)
        bus.later(2 * 24 * 3600)
        with pytest.raises(ServiceBusError):
            await receiver.receive_messages(1, max_wait_time=SHORT)


async def test_an_unknown_queue_is_not_found(bus: World) -> None:
    with pytest.raises(MessagingEntityNotFoundError, match="could not be found"):
        await bus.send("nowhere", ServiceBusMessage(b"x"))
    with pytest.raises(MessagingEntityNotFoundError):
        await bus.drain("plain/Subscriptions/none")


async def test_without_a_token_no_link_is_attached(bus: World) -> None:
    """Straight on the wire: handshake, session, attach, and no put-token."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bus.server.port)
    attach = codec.composite(
        codec.ATTACH,
        codec.string("l"),
        codec.uint(0),
        codec.FALSE,
        codec.ubyte(0),
        codec.ubyte(0),
        codec.composite(codec.SOURCE, codec.string("x")),
        codec.composite(codec.TARGET, codec.string("plain")),
    )
    begin = codec.composite(codec.BEGIN, codec.NULL, codec.uint(0), codec.uint(10), codec.uint(10))
    init = codec.composite(codec.SASL_INIT, codec.symbol("ANONYMOUS"))
    writer.write(codec.SASL_PROTOCOL + codec.frame(0, init, frame_type=codec.SASL_FRAME) + codec.AMQP_PROTOCOL)
    writer.write(codec.frame(0, codec.composite(codec.OPEN, codec.string("c"))))
    writer.write(codec.frame(0, begin) + codec.frame(0, attach))
    answer = b""
    while b"amqp:unauthorized-access" not in answer:
        chunk = await asyncio.wait_for(reader.read(65536), 10)
        assert chunk, answer
        answer += chunk
    assert b"'Send' claim(s) are required" in answer
    writer.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        codec.AMQP_PROTOCOL,
        codec.SASL_PROTOCOL + b"\xff\xff\xff\xff\x02\x01\x00\x00",
        codec.SASL_PROTOCOL + b"\x00\x00\x00\x07\x02\x01\x00\x00",
        codec.SASL_PROTOCOL + codec.frame(0, b"\x00\x53\x41\xc0\xff\xff", frame_type=1),
        codec.SASL_PROTOCOL + codec.frame(0, b"\x00" * 60, frame_type=1),
        codec.SASL_PROTOCOL + codec.frame(0, codec.composite(codec.SASL_INIT, codec.symbol("PLAIN")), frame_type=1),
        codec.SASL_PROTOCOL
        + codec.frame(0, codec.composite(codec.SASL_INIT, codec.symbol("ANONYMOUS")), frame_type=1)
        + codec.AMQP_PROTOCOL
        + codec.frame(0, codec.composite(codec.OPEN, codec.string("c")))
        + codec.frame(7, codec.composite(codec.FLOW)),
        codec.SASL_PROTOCOL
        + codec.frame(0, codec.composite(codec.SASL_INIT, codec.symbol("ANONYMOUS")), frame_type=1)
        + codec.AMQP_PROTOCOL
        + codec.frame(0, codec.composite(codec.OPEN, codec.string("c")))
        + codec.frame(0, codec.composite(codec.BEGIN, codec.string("wrong"), codec.string("types"))),
    ],
)
async def test_garbage_ends_its_own_connection_and_nothing_else(bus: World, garbage: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", bus.server.port)
    writer.write(garbage)
    while await asyncio.wait_for(reader.read(65536), 10):
        pass
    writer.close()
    await bus.send("plain", ServiceBusMessage(b"x"))
    assert bodies(await bus.drain("plain")) == [b"x"]


async def test_the_key_is_in_no_log_no_repr_and_no_error(bus: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "local.servicebus")
    with pytest.raises(ServiceBusAuthenticationError) as refused:
        await send_as(bus, bus.server.connection_string.replace(KEY, OTHER_KEY))
    await send_as(bus, bus.server.connection_string)
    told = caplog.text + repr(bus.server.config) + repr(bus.server._authority) + str(refused.value)
    assert KEY not in told and OTHER_KEY not in told and "sig=" not in told


async def test_only_the_loopback_is_listened_on(bus: World) -> None:
    assert bus.server._listener is not None
    assert [socket.getsockname()[0] for socket in bus.server._listener.sockets] == ["127.0.0.1"]


def test_addresses_of_every_spelling_mean_the_same_queue() -> None:
    for address in (
        "Invoicing",
        "/invoicing/",
        "sb://h:1/invoicing",
        "amqps://h/INVOICING",
        "sb%3A%2F%2Fh%2Finvoicing",
    ):
        assert path_of(address) == "invoicing"


def test_a_configuration_that_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="key"):
        ServiceBusConfig(tmp_path, "n", "", ())
    with pytest.raises(ValueError, match="differ"):
        ServiceBusConfig(tmp_path, "n", "k", (QueueConfig("a"), QueueConfig("A")))
    with pytest.raises(ValueError, match="kafka_bootstrap"):
        ServiceBusConfig(tmp_path, "n", "k", (), event_hubs={"usage": "usage"})
    for name in ("", "a/$management", "/a"):
        with pytest.raises(ValueError, match="plain path"):
            QueueConfig(name)
