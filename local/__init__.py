"""Laptop mode: a Kafka-compatible broker, a Service Bus and a Cosmos DB that speak their real wire protocols.

Owns: the child processes of the stack, their keys and ports under the data directory, the topics, queue and containers.
Never does: anything a deployment on Azure needs. No other room imports this one; the unmodified Azure SDKs and Kafka
clients talk to it over the network.
Invariants of design.md kept here: §3 (append time on the usage topic, where the broker can), §6 (partition counts never
change in place).
"""
