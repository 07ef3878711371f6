"""What is remembered: aggregates, known ids, watermarks, windows, the outbox, and how all of it outlives a crash.

Owns: the state of one partition of each stage, and the order of effects that makes it durable (`durable.py`).
Never does: I/O, asyncio, clocks, random numbers. Time comes in with records. One exception: `runs.py` keeps known ids in files
that are a cache of the changelog, so no decision depends on them.
Invariants of design.md kept here: §2.1 to §2.6 (state is a function of the log), §3 (time), §4 (one event, one fate).
"""
