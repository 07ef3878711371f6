"""Our routes on the aiohttp application of Faust's own web server: the only place where web and Faust meet.

Faust's pages stay out. Its index would be served at `/`; `/router` and `/table` show what is in its tables, which
meterline does not use, to whoever asks (faust.web.base.DEFAULT_BLUEPRINTS, 0.15.3).
"""

from __future__ import annotations

from typing import Any

from schemas.errors import ConfigurationError
from settings import Settings
from web.routes import install
from web.site import Publish, Site
from web.view import View


def attach(faust_app: Any, view: View, settings: Settings, *, publish: Publish | None = None) -> Site:
    """Installs the routes on `faust_app.web`; call it before the worker starts (Faust binds host and port itself).

    Raises ConfigurationError where Faust serves from a thread of its own, or has put its own pages up already. Both
    matter: the view is read without locks in the event loop that writes it, and routes are matched in order.
    """
    if faust_app.conf.web_in_thread:
        raise ConfigurationError(
            "the web server must run in the worker's own event loop",
            where="faust.App(web_in_thread=…)",
            hint="leave web_in_thread False",
        )
    server = faust_app.web
    if server.blueprints.applied:
        raise ConfigurationError(
            "Faust's web server is set up already",
            where="web.faust_site.attach",
            hint="attach before the worker starts",
        )
    server.blueprints = type(server.blueprints)()
    return install(server.web_app, view, settings, publish=publish)
