"""`python -m local.cosmos`: the local Cosmos DB as a process.

The key comes from the environment, `METERLINE_LOCAL_COSMOS_KEY`, never from an argument. One JSON line on stdout says
that it accepts; everything else goes to stderr. SIGTERM and SIGINT end it cleanly, exit code 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

from local.cosmos.server import CosmosConfig, CosmosServer

KEY_VARIABLE = "METERLINE_LOCAL_COSMOS_KEY"

logger = logging.getLogger("local.cosmos")


def main(arguments: list[str] | None = None) -> int:
    """Run until told to end. 0 after a clean end, 2 for a wrong configuration or a port or directory in use."""
    parser = argparse.ArgumentParser(
        prog="python -m local.cosmos", description="Cosmos DB for one machine, two regions."
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, action="append", help="twice: one per region; 0 for any free one")
    parser.add_argument("--region", action="append", help="twice: the regions' names")
    parser.add_argument("--replication-delay-ms", type=int, default=50)
    parser.add_argument("--throughput-rus", type=int, default=None)
    given = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    key = os.environ.get(KEY_VARIABLE)
    if not key:
        return _fail(f"{KEY_VARIABLE} is not set: it holds the account key, base64")
    ports = given.port or [0, 0]
    regions = given.region or ["West Europe", "North Europe"]
    if len(ports) != 2 or len(regions) != 2:
        return _fail("--port and --region are given twice, once per region")
    try:
        config = CosmosConfig(
            given.data_dir,
            key,
            ports=(ports[0], ports[1]),
            regions=(regions[0], regions[1]),
            replication_delay_ms=given.replication_delay_ms,
            throughput_rus=given.throughput_rus,
        )
        asyncio.run(_serve(config))
    except (ValueError, RuntimeError, OSError, OverflowError) as error:
        return _fail(str(error))
    return 0


async def _serve(config: CosmosConfig) -> None:
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    server = CosmosServer(config)
    await server.start()
    try:
        print(json.dumps({"ready": True, "service": "cosmos", "ports": list(server.ports)}), flush=True)
        logger.info("serving %s", ", ".join(server.endpoints))
        await ending.wait()
    finally:
        await server.close()
    logger.info("ended")


def _fail(what: str) -> int:
    print(what, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
