"""Benchmarks: how fast, how much memory, how soon back, on real brokers and real processes, one module per question.

Owns: the loads, the measuring, and `bench/RESULTS.md`, whose sections each run writes anew (`make bench`, `make bench-recovery`).
Never does: state a figure that its own run has not measured, or measure a job whose totals it has not checked. Each
figure stands beside a floor of the same run on the same machine, since machines differ and floors move with them.
No other room imports this one.
"""
