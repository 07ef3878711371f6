"""What moves: METERING, CLOSING and DELIVERY, each a pure step with a thin shell around it.

Owns: the fate of every event, the life of every window, and what leaves when (`metering.py`, `closing.py`, `delivery.py`);
the asyncio shell that drives them (`tasks.py`), and the Faust agents (`agents.py`).
Never does: decisions by clock, by batch boundary or by restart. The shell only decides *when* to emit and checkpoint,
which changes nothing that is counted.
Invariants of design.md kept here: §1 (the road), §2.1 (decisions at records), §2.6 (durable, then acted on), §3, §4.
"""
