"""What crosses a wire: events, meters, partials, windows, errors.

Owns: decoding what comes in, the exact text of what goes out, and the rules for numbers and times.
Never does: I/O, clocks, state. Ground floor: imports nothing of ours.
Invariants of design.md kept here: §2.7 (ids), §4 (what is malformed and what is invalid), §5 (exact decimals), §6 (bounds).
"""
