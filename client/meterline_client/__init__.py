"""`meterline-client`: usage events from a service into meterline, many at a time, in order, never lost silently.

Owns: ids, envelopes, lanes (one per partition), the spool on disk, the two transports. Does not own: what an event means,
which meters there are. Imports neither Faust nor a room of meterline.

Kept here, always:

* An event goes to the partition of its subject (Kafka's murmur2), over either transport, also when it is sent again.
* Ids are `run-lane-counter`: a lane's counter has no gap and follows the order of sending, so that the receiver can
  remember them as intervals. A retry is the same bytes.
* Memory is bounded. What does not fit waits, is refused, or goes to disk; never away.
* `accepted + recovered = delivered + failed + pending`, at any time (`Producer.ledger`).
"""

from __future__ import annotations

from meterline_client.accounts import Ledger
from meterline_client.errors import (
    Closed,
    ConfigurationError,
    DeliveryFailed,
    EventRefused,
    MeterlineClientError,
    SpoolError,
    SpoolFull,
    StillSpooled,
    TransportError,
)
from meterline_client.kafka import KafkaTransport
from meterline_client.outcomes import Failure, Receipt, Sent
from meterline_client.producer import Producer

__all__ = [
    "Closed",
    "ConfigurationError",
    "DeliveryFailed",
    "EventRefused",
    "Failure",
    "KafkaTransport",
    "Ledger",
    "MeterlineClientError",
    "Producer",
    "Receipt",
    "Sent",
    "SpoolError",
    "SpoolFull",
    "StillSpooled",
    "TransportError",
]
