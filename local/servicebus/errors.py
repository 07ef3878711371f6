"""What a client is told when it may not have what it asked for: AMQP conditions and texts as Azure words them.

    Refusal     one error with an AMQP condition; every room raises it, the connection turns it into the frame
                that fits (a rejected disposition, a detach, a management status)

Texts are Azure's, as clients' issue trackers quote them, so that whoever greps their logs for a sentence finds it
here too. Azure ends each with tracking identifiers; so does the connection, with `tracked`.
"""

from __future__ import annotations

import time
import uuid

NOT_FOUND = "amqp:not-found"
NOT_ALLOWED = "amqp:not-allowed"
NOT_IMPLEMENTED = "amqp:not-implemented"
UNAUTHORIZED = "amqp:unauthorized-access"
DECODE_ERROR = "amqp:decode-error"
INTERNAL = "amqp:internal-error"
INVALID_FIELD = "amqp:invalid-field"
SIZE_EXCEEDED = "amqp:link:message-size-exceeded"
MESSAGE_LOCK_LOST = "com.microsoft:message-lock-lost"
MESSAGE_NOT_FOUND = "com.microsoft:message-not-found"
SESSION_LOCK_LOST = "com.microsoft:session-lock-lost"
SESSION_CANNOT_BE_LOCKED = "com.microsoft:session-cannot-be-locked"
TIMEOUT = "com.microsoft:timeout"
SERVER_BUSY = "com.microsoft:server-busy"
AUTH_FAILED = "com.microsoft:auth-failed"
ARGUMENT = "com.microsoft:argument-error"
ARGUMENT_OUT_OF_RANGE = "com.microsoft:argument-out-of-range"

# The status a $management or $cbs answer carries for each condition; anything else is a 400.
STATUS = {
    NOT_FOUND: 404,
    MESSAGE_NOT_FOUND: 404,
    UNAUTHORIZED: 401,
    AUTH_FAILED: 401,
    NOT_IMPLEMENTED: 501,
    INTERNAL: 500,
    SERVER_BUSY: 503,
    TIMEOUT: 408,
    MESSAGE_LOCK_LOST: 410,
    SESSION_LOCK_LOST: 410,
}


class Refusal(Exception):
    """No, and why: an AMQP error condition and a text for people."""

    def __init__(self, condition: str, text: str) -> None:
        super().__init__(f"{condition}: {text}")
        self.condition = condition
        self.text = text

    @property
    def status(self) -> int:
        return STATUS.get(self.condition, 400)


def tracked(text: str, now_s: float) -> str:
    """The text with Azure's tail of tracking identifiers."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s))
    return f"{text} TrackingId:{uuid.uuid4()}_L0, SystemTracker:meterline-local, Timestamp:{stamp}"


def entity_not_found(address: str) -> Refusal:
    return Refusal(
        NOT_FOUND,
        f"The messaging entity '{address}' could not be found. "
        "To know more visit https://aka.ms/sbResourceMgrExceptions.",
    )


def claim_required(claim: str, resource: str) -> Refusal:
    return Refusal(
        UNAUTHORIZED,
        f"Unauthorized access. '{claim}' claim(s) are required to perform this operation. Resource: '{resource}'.",
    )


def sessions_required() -> Refusal:
    return Refusal(
        NOT_ALLOWED,
        "It is not possible for an entity that requires sessions to create a non-sessionful message receiver.",
    )


def sessions_not_supported() -> Refusal:
    return Refusal(
        NOT_ALLOWED,
        "A sessionful message receiver cannot be created on an entity that does not require sessions. Ensure "
        "RequiresSession is set to true when creating a Queue or Subscription to enable sessionful behavior.",
    )


def session_id_missing() -> Refusal:
    return Refusal(
        NOT_ALLOWED,
        "The SessionId was not set on a message, and it cannot be sent to the entity. Entities that have session "
        "support enabled can only receive messages that have the SessionId set to a valid value.",
    )


def id_too_long(name: str) -> Refusal:
    return Refusal(ARGUMENT_OUT_OF_RANGE, f"The {name} of a message cannot be longer than 128 characters.")


def session_busy(session_id: str) -> Refusal:
    return Refusal(
        SESSION_CANNOT_BE_LOCKED,
        f"The requested session '{session_id}' cannot be accepted. It may be locked by another receiver.",
    )


def no_session_free(waited_s: float) -> Refusal:
    minutes, seconds = divmod(waited_s, 60)
    return Refusal(
        TIMEOUT,
        f"The operation did not complete within the allocated time 00:{int(minutes):02d}:{seconds:07.4f} for object "
        "session receiver.",
    )


def session_lock_lost() -> Refusal:
    return Refusal(
        SESSION_LOCK_LOST, "The session lock has expired on the MessageSession. Accept a new MessageSession."
    )


def message_lock_lost() -> Refusal:
    return Refusal(
        MESSAGE_LOCK_LOST,
        "The lock supplied is invalid. Either the lock expired, or the message has already been removed from the "
        "queue, or was received by a different receiver instance.",
    )


def message_not_found(sequence_number: int) -> Refusal:
    return Refusal(
        MESSAGE_NOT_FOUND,
        f"Failed to find the message with sequence number {sequence_number}: it is unknown, or not in a state for this.",
    )


def message_too_large(delivery_id: int, size: int, limit: int) -> Refusal:
    return Refusal(
        SIZE_EXCEEDED,
        f"The received message (delivery-id:{delivery_id}, size:{size} bytes) exceeds the limit ({limit} bytes) "
        "currently allowed on the link.",
    )
