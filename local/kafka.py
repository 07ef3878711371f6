"""A real Apache Kafka (KRaft, one node) for tests and benchmarks: jars by Maven, data in a directory of the caller.

As strict as Event Hubs where it matters: topics are never created by use, records carry append time, and with `sasl`
clients must speak SASL_SSL: PLAIN as `$ConnectionString`, with the connection string as password, or OAUTHBEARER with an
unsigned token.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import shutil
import subprocess
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from local.broker import answers
from local.ports import free_port
from local.process import Child
from schemas.errors import ConfigurationError
from settings import Settings

_ROOT = Path(__file__).resolve().parents[1]
_POM = Path(__file__).parent / "kafka.pom.xml"
CLUSTER_ID = "bWV0ZXJsaW5ldGVzdHMwMA"
KEY_NAME = "meterline"
KEY = "dGVzdHMgb25seSwgbm8gc2VjcmV0"  # of the test's own broker
SASL_USERNAME = "$ConnectionString"


class KafkaCluster:
    """One broker on 127.0.0.1. `start`, `stop`, `kill`, `restart` (same ports, same log).

    bootstrap: the listener without authentication, always there (for the test itself). With `sasl=True` also
    `sasl_port`, `connection_string` (as Event Hubs', with that port) and `ca_file`; `settings`: how a worker does.
    """

    def __init__(self, directory: Path, *, sasl: bool = False) -> None:
        self.directory = directory
        self.sasl = sasl
        self.port, self.sasl_port, self._controller_port = free_port(), free_port(), free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.ca_file = directory / "ca.pem"
        self.log_file = directory / "kafka.log"
        self._jars = ""
        self._formatted = False
        self._process: Child | None = None

    @property
    def connection_string(self) -> str:
        """The Event Hubs connection string of this broker. `localhost`: the certificate names it."""
        return connection_string(self.sasl_port, KEY)

    @property
    def settings(self) -> Settings:
        """How a worker connects: over SASL_SSL where there is SASL, else without authentication."""
        if not self.sasl:
            return Settings(kafka_bootstrap=self.bootstrap)
        return Settings(eventhubs_connection_string=self.connection_string, kafka_ca_file=str(self.ca_file))

    @property
    def pid(self) -> int:
        """Process id of the broker."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Format the storage the first time, start, and return once it answers."""
        if not self._formatted:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._jars = str(jars() / "*")
            self._configure()
            await self._format()
            self._formatted = True
        self._process = Child("Apache Kafka", self._java("kafka.Kafka", "server.properties"), log=self.log_file)
        await self._process.start()
        await self._process.until(lambda: answers(self.bootstrap), 60)

    async def stop(self) -> None:
        """Orderly end. Idempotent."""
        if self._process is not None:
            await self._process.stop(grace_s=20)

    async def kill(self) -> None:
        """SIGKILL, as a crash would be. `start` brings it back with its log."""
        assert self._process is not None
        await self._process.kill()

    def signal(self, number: int) -> None:
        """Send a signal to the broker, if it still runs: SIGSTOP and SIGCONT freeze it for a while."""
        if self._process is not None:
            self._process.signal(number)

    async def restart(self) -> None:
        """Orderly end, and a new start with the same log."""
        await self.stop()
        await self.start()

    def _java(self, main: str, *arguments: str) -> list[str]:
        paths = [str(self.directory / a) if a.endswith(".properties") else a for a in arguments]
        log4j = f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}"
        heap = ["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        return [_program("java", "Java 17 or newer, for Apache Kafka"), *heap, log4j, "-cp", self._jars, main, *paths]

    async def _format(self) -> None:
        command = self._java(
            "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", "server.properties", "--ignore-formatted"
        )
        with self.log_file.open("ab") as log:
            process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
            code = await process.wait()
        assert code == 0, f"formatting failed:\n{self.log_file.read_text()[-4000:]}"

    def _configure(self) -> None:
        listeners = [f"PLAIN://127.0.0.1:{self.port}", f"CONTROLLER://127.0.0.1:{self._controller_port}"]
        advertised = [f"PLAIN://127.0.0.1:{self.port}"]
        protocols = ["PLAIN:PLAINTEXT", "CONTROLLER:PLAINTEXT"]
        extra: list[str] = []
        if self.sasl:
            certificate, key = certificates(self.ca_file)
            listeners.append(f"EVENTHUBS://127.0.0.1:{self.sasl_port}")
            advertised.append(f"EVENTHUBS://localhost:{self.sasl_port}")
            protocols.append("EVENTHUBS:SASL_SSL")
            password = self.connection_string.replace("\\", "\\\\").replace('"', '\\"')
            extra = [
                "listener.name.eventhubs.sasl.enabled.mechanisms=PLAIN,OAUTHBEARER",
                # Unsigned tokens are good enough for a broker of one's own; a connection ends with its token, as Azure's do.
                "listener.name.eventhubs.oauthbearer.sasl.jaas.config="
                "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
                'unsecuredLoginStringClaim_sub="broker";',
                "listener.name.eventhubs.oauthbearer.connections.max.reauth.ms=3600000",
                "listener.name.eventhubs.plain.sasl.jaas.config="
                "org.apache.kafka.common.security.plain.PlainLoginModule required "
                f'user_{SASL_USERNAME}="{password}";',
                "listener.name.eventhubs.ssl.keystore.type=PEM",
                "listener.name.eventhubs.ssl.keystore.certificate.chain=" + _one_line(certificate),
                "listener.name.eventhubs.ssl.keystore.key=" + _one_line(key),
            ]
        lines = [
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.voters=1@127.0.0.1:{self._controller_port}",
            "controller.listener.names=CONTROLLER",
            "inter.broker.listener.name=PLAIN",
            "listeners=" + ",".join(listeners),
            "advertised.listeners=" + ",".join(advertised),
            "listener.security.protocol.map=" + ",".join(protocols),
            f"log.dirs={self.directory / 'data'}",
            "auto.create.topics.enable=false",
            "log.message.timestamp.type=LogAppendTime",
            "num.partitions=1",
            "offsets.topic.num.partitions=1",
            "offsets.topic.replication.factor=1",
            "transaction.state.log.num.partitions=1",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "share.coordinator.state.topic.replication.factor=1",
            "share.coordinator.state.topic.min.isr=1",
            "group.initial.rebalance.delay.ms=0",
            "broker.heartbeat.interval.ms=500",  # a killed broker is let back in only when its session is over
            "broker.session.timeout.ms=2000",
            "log.cleaner.dedupe.buffer.size=16777216",
            *extra,
        ]
        (self.directory / "server.properties").write_text("\n".join(lines) + "\n")
        (self.directory / "log4j2.properties").write_text(_LOG4J)


def connection_string(port: int, key: str) -> str:
    """An Event Hubs connection string that leads to `localhost:port`."""
    return f"Endpoint=sb://localhost:{port}/;SharedAccessKeyName={KEY_NAME};SharedAccessKey={key}"


def jars() -> Path:
    """The directory of Kafka's jars, fetched with Maven the first time and kept in `.cache/kafka`.

    Raises ConfigurationError where there is no Maven and no jars yet.
    """
    version = _POM.read_text().partition("kafka_2.13")[2].partition("<version>")[2].partition("<")[0]
    directory = _ROOT / ".cache" / "kafka" / version
    if not (directory / "complete").is_file():
        goal = "dependency:copy-dependencies"
        subprocess.run(
            [
                _program("mvn", "Maven, for the jars of Apache Kafka"),
                "-q",
                "-B",
                "-f",
                str(_POM),
                goal,
                f"-DoutputDirectory={directory}",
                "-DincludeScope=runtime",
            ],
            check=True,
            stdout=sys.stderr,
        )
        (directory / "complete").touch()
    return directory


def _program(name: str, what: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise ConfigurationError(f"this machine lacks {what}", where=name, hint=f"install it, so that {name} is found")
    return path


def certificates(ca_file: Path) -> tuple[str, str]:
    """A new authority (its certificate goes to `ca_file`), and certificate and key (PEM) of a `localhost` signed by it."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "meterline tests")])
    server_key = ec.generate_private_key(ec.SECP256R1())

    def certificate(
        subject: x509.Name, key: ec.EllipticCurvePublicKey, *extensions: tuple[x509.ExtensionType, bool]
    ) -> bytes:
        builder = x509.CertificateBuilder(subject_name=subject, issuer_name=ca_name, public_key=key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=2))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    sign_only = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    authority_of = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    identity = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))])
    ca_file.write_bytes(
        certificate(
            ca_name,
            ca_key.public_key(),
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (sign_only, True),
            (identity, False),
        )
    )
    server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    server = certificate(server_name, server_key.public_key(), (names, False), (authority_of, False))
    key = server_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return server.decode(), key.decode()


def _one_line(pem: str) -> str:
    return pem.strip().replace("\n", "\\n")


_LOG4J = """\
status=error
rootLogger.level=info
rootLogger.appenderRefs=stdout
rootLogger.appenderRef.stdout.ref=stdout
appender.stdout.type=Console
appender.stdout.name=stdout
appender.stdout.layout.type=PatternLayout
appender.stdout.layout.pattern=%d %p %c{1} %m%n
logger.config.name=org.apache.kafka.common.config
logger.config.level=warn
logger.kafkaconfig.name=kafka.server.KafkaConfig
logger.kafkaconfig.level=warn
"""
