"""The command line: `python app.py …`, one room per command.

Owns: options, progress bars, tables, JSON on stdout, exit codes; what `check` asks and what it thinks of the answers.
Never does: metering, closing, delivering. It starts what does, or speaks to it over the network like anybody else.
Invariants of design.md kept here: §3 and §6, as `check` verifies them on a deployment (append time, partition counts).
"""
