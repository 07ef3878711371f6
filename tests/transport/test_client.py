"""Clients connect as they would to Event Hubs, and say what is wrong when they cannot."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition, errors
from aiokafka.admin import AIOKafkaAdminClient

from local.topics import ensure_topics, partition_counts
from schemas.errors import BrokerError, ConfigurationError
from settings import Settings
from tests.kafka_cluster import KEY, KafkaCluster, connection_string
from transport.client import client_options, diagnose, explain, faust_credentials, probe

WRONG_KEY = "d3Jvbmc"


@pytest.fixture
async def settings(kafka_sasl: KafkaCluster) -> Settings:
    await ensure_topics(kafka_sasl.settings, 4, 4)
    return kafka_sasl.settings


async def test_the_right_key_writes_and_reads_over_tls(settings: Settings) -> None:
    producer = AIOKafkaProducer(**client_options(settings))
    await producer.start()
    try:
        sent = await producer.send_and_wait(settings.usage_topic, b"a", partition=1)
    finally:
        await producer.stop()
    consumer = AIOKafkaConsumer(**client_options(settings))
    await consumer.start()
    try:
        consumer.assign([TopicPartition(settings.usage_topic, 1)])
        consumer.seek(TopicPartition(settings.usage_topic, 1), sent.offset)
        assert (await consumer.getone()).value == b"a"
    finally:
        await consumer.stop()


async def test_a_wrong_key_says_so_and_which_setting_and_never_the_key(settings: Settings) -> None:
    port = int(settings.eventhubs().bootstrap.rpartition(":")[2])  # type: ignore[union-attr]
    wrong = replace(settings, eventhubs_connection_string=connection_string(port, WRONG_KEY))
    producer = AIOKafkaProducer(**client_options(wrong))
    with pytest.raises(errors.KafkaError) as raised:
        await producer.start()
    await producer.stop()
    error = await diagnose(raised.value, wrong)
    assert isinstance(error, ConfigurationError)
    assert not error.retryable
    assert "authentication failed" in str(error)
    assert "METERLINE_EVENTHUBS_CONNECTION_STRING" in str(error)
    assert error.hint
    assert WRONG_KEY not in str(error) + repr(error) + repr(wrong)


async def test_the_key_is_in_no_log_however_verbose(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="aiokafka.conn"):
        await probe(settings)
    assert "SaslHandShake" in caplog.text
    assert KEY not in caplog.text


async def test_topics_cannot_be_created_by_using_them(settings: Settings) -> None:
    producer = AIOKafkaProducer(**client_options(settings, request_timeout_ms=1000))
    await producer.start()
    try:
        with pytest.raises(errors.KafkaError) as raised:
            await producer.send_and_wait("not-there", b"a")
    finally:
        await producer.stop()
    error = explain(errors.UnknownTopicOrPartitionError(), settings, topic="not-there")
    assert isinstance(error, ConfigurationError)
    assert "topic 'not-there' does not exist" in str(error)
    assert "create it beforehand" in error.hint
    assert isinstance(raised.value, errors.UnknownTopicOrPartitionError | errors.KafkaTimeoutError)
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    assert "not-there" not in await partition_counts(admin)
    await admin.close()


async def test_an_unknown_authority_points_at_the_ca_file(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"METERLINE_KAFKA_CA_FILE.*could not be verified"):
        await probe(replace(settings, kafka_ca_file=None))


async def test_a_ca_file_that_is_none_is_refused_by_its_setting(settings: Settings, kafka_sasl: KafkaCluster) -> None:
    with pytest.raises(ConfigurationError, match=r"METERLINE_KAFKA_CA_FILE.*no file"):
        client_options(replace(settings, kafka_ca_file="/not/there.pem"))
    with pytest.raises(ConfigurationError, match=r"METERLINE_KAFKA_CA_FILE.*no PEM"):
        client_options(replace(settings, kafka_ca_file=str(kafka_sasl.directory / "server.properties")))


async def test_a_port_where_nobody_listens_may_pass_by_itself(settings: Settings) -> None:
    with pytest.raises(BrokerError, match="nothing listens at localhost:1 ") as raised:
        await probe(replace(settings, eventhubs_connection_string=connection_string(1, KEY)))
    assert raised.value.retryable


async def test_a_key_for_a_broker_without_tls_says_what_to_check(settings: Settings, kafka_sasl: KafkaCluster) -> None:
    with pytest.raises(BrokerError, match="no connection to localhost"):
        await probe(replace(settings, eventhubs_connection_string=connection_string(kafka_sasl.port, KEY)))


async def test_a_wrong_partition_count_names_both_numbers(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"'usage' has 4 partitions, 6 were asked for -> .*never change"):
        await ensure_topics(settings, 6, 4)


def test_without_any_broker_every_setting_that_names_one_is_named() -> None:
    named = "METERLINE_EVENTHUBS_CONNECTION_STRING, METERLINE_EVENTHUBS_NAMESPACE, METERLINE_KAFKA_BOOTSTRAP"
    with pytest.raises(ConfigurationError, match=named):
        client_options(Settings())


def test_azure_values_hold_for_every_client() -> None:
    options = client_options(Settings(eventhubs_connection_string=connection_string(9093, KEY)))
    assert options["bootstrap_servers"] == "localhost:9093"
    assert options["security_protocol"] == "SASL_SSL"
    assert options["sasl_plain_username"] == "$ConnectionString"
    assert options["metadata_max_age_ms"] == options["connections_max_idle_ms"] == 180_000
    emulator = connection_string(9092, KEY) + ";UseDevelopmentEmulator=true"
    assert client_options(Settings(eventhubs_connection_string=emulator))["security_protocol"] == "SASL_PLAINTEXT"
    assert client_options(Settings(kafka_bootstrap="h:1"))["security_protocol"] == "PLAINTEXT"


def test_faust_gets_the_same_credentials() -> None:
    assert faust_credentials(Settings(kafka_bootstrap="h:1")) is None
    credentials = faust_credentials(Settings(eventhubs_connection_string=connection_string(9093, KEY)))
    assert credentials.protocol.value == "SASL_SSL"
    assert credentials.username == "$ConnectionString"
    assert KEY not in repr(credentials)


def test_a_topic_that_is_not_there_may_only_not_be_seen() -> None:
    """A broker says the same of both."""
    error = explain(errors.UnknownTopicOrPartitionError(), Settings(kafka_bootstrap="h:1"), topic="hidden")
    assert "topic 'hidden' does not exist at h:1" in str(error)
    assert "the key or identity may not be allowed to see it" in error.hint
