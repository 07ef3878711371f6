"""How meterline speaks to Kafka and Event Hubs: Faust's transport, batched and strict, and the client under it.

Owns: the `eventhubs://` Faust transport (one message per fetched batch), the membership and its one kind of commit, the
producer, the reader of logs, client settings and the explanation of their errors.
Never does: folding, deciding, retrying what must not be retried.
Invariants of design.md kept here: §2.3 (bounds and reads of recovery), §2.4 (a commit is strict), §8 (what Faust is for).
"""
