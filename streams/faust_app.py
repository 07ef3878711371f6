"""Builds the Faust app of a worker from the settings: the shell, and nothing but the shell."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING

import faust
from yarl import URL

import settings as configuration
from schemas.errors import ConfigurationError, MeterlineError
from schemas.meters import load as load_meters
from settings import Settings
from sinks.contract import Sink
from sinks.cosmos import CosmosSink
from sinks.servicebus import ServiceBusSink
from streams.agents import consumer_thread, install
from streams.clock import SystemClock
from streams.restoring import RestoringUncollected
from streams.start_over import StartOver
from streams.warming import warm
from streams.watchdog import longest_join_s, watch
from streams.worker import Worker
from transport.broker import Broker
from transport.client import bootstrap_servers, entra_tokens, faust_credentials
from transport.membership import Owners
from transport.throttling import Throttling

if TYPE_CHECKING:
    from transport.entra import EntraTokens

log = logging.getLogger("meterline.app")


class MeterlineWorker(faust.Worker):  # type: ignore[misc]
    """Faust's. A signal is noted as it comes, not when what it stops gets to know of it."""

    app: MeterlineApp

    def _schedule_shutdown(self, signal: Signals) -> None:
        self.app.start_over.told_to_end()
        super()._schedule_shutdown(signal)


class MeterlineApp(faust.App):  # type: ignore[misc]
    """A Faust app whose worker is ready before the group is joined, and hands over before it is left."""

    advertised_url = ""
    worker: Worker
    start_over: StartOver
    throttling: Throttling
    tokens: EntraTokens | None = None

    @property
    def owners(self) -> Owners:
        """Who owns what, as of the group's last assignment; empty before any."""
        thread = consumer_thread(self)
        return thread.owners if thread is not None else {}

    def takes(self, topic: str, partition: int) -> bool:
        """Whether a batch of this partition should be fetched now. Asked by the consumer's thread."""
        return self.worker.takes(topic, partition)

    async def on_first_start(self) -> None:
        """Faust would make its data directories here; a worker of ours keeps nothing on its disk."""

    async def on_start(self) -> None:
        """Connects and checks the topics.

        A worker that cannot be right says so and ends with exit code 2; whatever else fails here starts it over.
        """
        await super().on_start()
        try:
            took_s = await asyncio.to_thread(warm)
            log.info("kernels are ready (%.1f s)", took_s)
            check_listens(self.worker.settings)
            await self.worker.start()
        except ConfigurationError as error:
            self.start_over.refuse(error)
        except MeterlineError as error:
            self.start_over.request(str(error))
        except Exception as error:  # Faust would end as if it had been told to
            log.exception("this worker could not start")
            self.start_over.request(f"it could not start: {type(error).__name__}: {error}")
        await self.start_over.ended()
        limit_s = longest_join_s(self.worker.settings)
        self.add_future(watch(SystemClock(), limit_s, self._in_group, self.start_over.request))

    def _in_group(self) -> bool:
        thread = consumer_thread(self)
        return thread is not None and thread.membership is not None

    async def on_stop(self) -> None:
        """A last checkpoint while the membership holds, then the end of this process (`StartOver.finish`).

        Faust comes here also where a start failed, and then knows of no crash: only who was told to end, ended well.
        """
        told = self.start_over.was_told_to_end
        self.start_over.told_to_end()
        await self.worker.stop()
        await self.start_over.finish(told and self.worker.handed_over and self.crash_reason is None)


def check_listens(settings: Settings) -> None:
    """Raises ConfigurationError where the worker's web address cannot be listened on: Faust would end as if told to."""
    host, port = settings.web_host, settings.web_port
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise ConfigurationError(
            f"it cannot listen on {host}:{port}: {error.strerror}",
            where="METERLINE_WEB_HOST, METERLINE_WEB_PORT",
            hint="another worker, or something else, may listen there: end it, or give this worker a port of its own",
        ) from error


def build(settings: Settings | None = None) -> MeterlineApp:
    """The Faust app of one worker. Raises ConfigurationError for a setting or a meters file that is wrong."""
    settings = settings or configuration.load()
    definitions = load_meters(Path(settings.meters))
    sinks = _sinks(settings)
    _quiet(settings.log_level.upper())
    app = MeterlineApp(
        settings.app_id,
        broker=[URL(f"eventhubs://{server.strip()}") for server in bootstrap_servers(settings).split(",")],
        broker_credentials=faust_credentials(settings),
        Worker=MeterlineWorker,
        store="memory://",
        web_host=settings.web_host,
        web_bind=settings.web_host,
        web_port=settings.web_port,
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=0,
        stream_wait_empty=False,
        stream_buffer_maxsize=4,
        broker_max_poll_records=2000,
        broker_session_timeout=settings.session_timeout_s,
        broker_rebalance_timeout=settings.rebalance_timeout_s,
        broker_heartbeat_interval=min(3.0, settings.session_timeout_s / 4),
        broker_request_timeout=max(60.0, settings.session_timeout_s + 5),
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=2 << 20,
        consumer_metadata_max_age_ms=180_000,
        consumer_connections_max_idle_ms=180_000,
        producer_metadata_max_age_ms=180_000,
        producer_connections_max_idle_ms=180_000,
    )
    app.advertised_url = settings.advertised_url
    app.start_over = StartOver(lambda: _leave(app))
    broker = Broker(settings, lambda: consumer_thread(app))
    app.throttling, app.tokens = broker.throttling, entra_tokens(settings)
    app.worker = Worker(
        settings,
        definitions,
        sinks,
        broker,
        app.start_over.request,
        app.start_over.refuse,
        restoring=RestoringUncollected(),
    )
    install(app, app.worker, settings.usage_topic, settings.partials_topic)

    return app


def _quiet(level: str) -> None:
    """Our own log at the level asked for; the libraries below only when something is wrong, unless DEBUG is asked for."""
    logging.getLogger("meterline").setLevel(level)
    if level != "DEBUG":
        for name in ("aiokafka", "faust", "mode"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Cosmos DB's client warns once per item and attempt while an account is away; the couriers say it once.
        logging.getLogger("azure").setLevel(logging.ERROR)


def _sinks(settings: Settings) -> list[Sink]:
    sinks: list[Sink] = []
    if settings.servicebus_connection_string or settings.servicebus_namespace:
        sinks.append(ServiceBusSink(settings))
    if settings.cosmos_endpoint:
        regions = (settings.cosmos_preferred_regions or "").split(",")
        sinks.append(CosmosSink(settings, [region.strip() for region in regions if region.strip()]))
    return sinks


async def _leave(app: MeterlineApp) -> None:
    """Leaves the group, so that the others need not wait for the session to time out."""
    thread = consumer_thread(app)
    if thread is not None and thread._consumer is not None:
        await thread.leave()
