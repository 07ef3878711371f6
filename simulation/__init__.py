"""A seeded world in which production's own code runs under faults, and the ledger that judges what comes of it.

Owns: a scheduler with virtual time, logs with retention, a consumer group, a Service Bus and a Cosmos DB at the level of the
SDK's calls, generated usage, faults, the oracle, the mutants. The workers, their tasks, stages, tables, couriers and sinks
are production's, not copies of it. One seed is one story, the same to the byte wherever it is told.

Never: real time, real sockets, real chance. Nothing in here is part of the product; `docs/proof.md` says what it proves.
"""
