"""The field: the same job for meterline and its peers, side by side on this machine, each on one core (`make bench`).

Owns: the job (`job`), its inputs with their ledger (`inputs`, `catalogue`), what is measured (`plan`) and by whom and when
(`sitting`), how each contestant is started and what it shows (`contestants`), the measuring (`measure`), the judge (`judge`)
and the section Field of `bench/RESULTS.md`.
Never does: run two contestants at once where a speed or a time is measured, count a contestant's broker or generator as
its own cost, or print the speed of a run whose totals it has not compared with the ledger.

The peers themselves stand in `bench/peers` (Python, each with an environment of its own) and `bench/java`.
"""
