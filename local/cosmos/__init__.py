"""A Cosmos DB for one machine: its REST on plain http at 127.0.0.1, in two write regions.

The unmodified azure-cosmos SDK, sync and async, talks to it: databases and containers, items with preconditions, patch,
transactional batch, parametrised SQL (one partition or across), read feed, partition key ranges and session tokens.

Owns: what a client of Cosmos DB can see of it: status codes and bodies, request charges, replication between regions,
last writer wins, throttling, and everything under its data directory.
Never does: TLS, Entra ID, stored procedures, triggers, change feed, throughput offers, TTL (stored, never acted on),
several physical partitions per region beyond two fixed ones, consistency levels other than Session and Eventual.

Invariants kept here:

1. *Acknowledged is durable.* No response leaves before the transaction that holds its effect is on disk (`store.py`).
2. *Nothing is lost between regions.* A write and its place in the replication queue are one transaction.
3. *Convergence.* When the queues are empty, both regions hold the same winner for every item (`regions.py`).
4. *No secret leaves.* The key is in no log line, error, repr or argument list.
"""
