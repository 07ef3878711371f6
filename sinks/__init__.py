"""Where revisions go: one small contract, and one room per sink.

Owns: speaking to Service Bus and Cosmos DB, and saying what became of each revision.
Never does: retries with backoff, ordering between batches, bookkeeping. Those live in one place, `streams/delivery.py`.
Invariants of design.md kept here: §2.6 (a resend has the same content and the same id), §2.7 (the ids are the idempotency).
"""

from sinks.contract import DELIVERED, Outcome, Sink, refused, retry

__all__ = ["DELIVERED", "Outcome", "Sink", "refused", "retry"]
