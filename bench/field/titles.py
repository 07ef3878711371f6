"""What the inputs are called: in the plan, in the runs that are kept, and in the report."""

ONE_K, HUNDRED_K, MILLION = "1,000 keys", "100,000 keys", "1,000,000 keys"
PACKED = ", envelopes"
"""How the titles of inputs end that are envelopes of our client."""
ENVELOPES, MILLION_ENVELOPES = ONE_K + PACKED, MILLION + PACKED
UNIFORM, NEW_KEYS = "1,000,000 keys, each as often as any other", "every event of a new key"
TRACE = "Azure LLM inference trace 2023, x20"
TRACE_ENVELOPES = TRACE + PACKED
