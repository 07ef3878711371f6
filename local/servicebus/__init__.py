"""A Service Bus for laptop mode, and Event Hubs' AMQP entrance to the local Kafka: the unmodified Azure SDKs talk to it.

Owns: queues with sessions, locks, duplicate detection, scheduling and dead letters, speaking AMQP 1.0 over plain TCP
on the loopback; and a bridge that passes what AMQP producers send to an event hub on to a Kafka topic.
Never: topics and subscriptions, transactions, the management REST interface, AMQP over WebSocket, TLS, receiving from
event hubs over AMQP. It is one namespace with one key, for one machine; it is no production broker.
Keeps: what is acknowledged is on disk (store.py), and a message id is stored once per duplicate window (design.md 2.7).

    server.py       configuration; the turn: deliver, commit, tell      codec.py        bytes
    connection.py   a client's connection                               message.py      a message's sections
    session.py      its links and windows                               errors.py       Azure's words
    links.py        credit and deliveries                               cbs.py          tokens
    nodes.py        what links attach to                                management.py   $management
    entities.py     a queue's rules, pure (entry.py: one message)       eventhubs.py    the bridge
    store.py        SQLite                                              kafka.py        its Kafka side
"""
