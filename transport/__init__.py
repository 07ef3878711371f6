"""The way to the broker: how our Kafka clients connect, and Faust's transport over them.

Owns: connection settings and what broker errors mean, batched fetch, the strict commit.
Never does: deciding what a record means, creating topics, writing records on its own account.
Invariants of design.md kept here: §2.4 (a commit is strict), §6 (Event Hubs' client values),
§8 (one message per batch).
"""
