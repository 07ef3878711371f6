"""A worker whose web address is taken says so, and which settings say otherwise, before it joins its group."""

from __future__ import annotations

import socket

import pytest

from schemas.errors import ConfigurationError
from settings import Settings
from streams.faust_app import check_listens


def test_an_address_that_is_free_stays_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    for _ in range(2):
        check_listens(Settings(web_host="127.0.0.1", web_port=port))


def test_a_port_that_is_taken_is_told_with_the_setting_that_says_which() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            ConfigurationError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address .*in use"
        ) as refused:
            check_listens(Settings(web_host="127.0.0.1", web_port=port))
    assert "METERLINE_WEB_PORT" in str(refused.value) and "a port of its own" in refused.value.hint


def test_a_host_that_is_none_of_this_machines_is_told_too() -> None:
    for host in ("192.0.2.1", "no-such-host.invalid"):
        with pytest.raises(ConfigurationError, match=f"cannot listen on {host}:6066"):
            check_listens(Settings(web_host=host, web_port=6066))
