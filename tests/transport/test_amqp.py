"""`send --amqp` where the peer takes the connection and says nothing: it ends, and says so."""

from __future__ import annotations

import pytest

from schemas.errors import BrokerError
from settings import Settings
from tests.wall import Wall
from transport import amqp
from transport.amqp import AmqpProducer


async def test_a_peer_that_says_nothing_is_an_error_and_never_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amqp, "ANSWER_S", 0.5)
    async with Wall(0) as wall:
        wall.silent = True
        text = f"Endpoint=sb://127.0.0.1:{wall.port};SharedAccessKeyName=n;SharedAccessKey=a2V5;UseDevelopmentEmulator=true"
        with pytest.raises(BrokerError, match="no connection to event hub 'usage': no answer within"):
            async with AmqpProducer(Settings(eventhubs_amqp_connection_string=text)):
                pass
