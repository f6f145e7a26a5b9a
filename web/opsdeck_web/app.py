"""The application: every route, in the order of the doors it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litestar import Litestar, Router, get
from litestar.config.csrf import CSRFConfig
from litestar.datastructures import CacheControlHeader, State
from litestar.di import Provide
from litestar.exceptions import LitestarException, NotFoundException
from litestar.openapi.config import OpenAPIConfig
from litestar.params import FromPath
from litestar.plugins.htmx import HTMXPlugin, HTMXRequest
from litestar.static_files import create_static_files_router
from litestar.template import TemplateConfig

from opsdeck import __version__
from opsdeck.deck import Deck
from opsdeck.manifest import Manifest
from opsdeck_web import api, faults, live
from opsdeck_web.identity import Identify, signed_in
from opsdeck_web.pages import (
    account,
    actions,
    audit,
    health,
    hosts,
    jobs,
    login,
    overview,
    palette,
    people,
    preferences,
    schedules,
    secrets,
)
from opsdeck_web.security import SameOrigin, harden
from opsdeck_web.shell import STATIC, Frame
from opsdeck_web.visitor import Visitor

PAGES = (overview, hosts, actions, jobs, schedules, audit, secrets, people, account, health, palette)
BODY_LIMIT = 4 * 1024 * 1024


def provide_deck(state: State) -> Deck:
    """Give handlers the deck."""
    deck: Deck = state.deck
    return deck


def provide_visitor(request: HTMXRequest) -> Visitor:
    """Give handlers the person who asks."""
    visitor: Visitor = request.scope["user"]
    return visitor


@get("/{rest:path}", include_in_schema=False)
async def nowhere(rest: FromPath[str]) -> None:
    """Answer every address that nobody has."""
    raise NotFoundException(rest)


def make_app(deck: Deck) -> Litestar:
    """Put the console together over an open deck."""
    frame = Frame(deck.plugins)
    secret = deck.keyring.derive("csrf").hex()
    secure = deck.settings.public_url.startswith("https://")
    inside = Router(
        "/",
        route_handlers=[route for module in PAGES for route in module.routes] + [live.stream],
        guards=[signed_in],
        include_in_schema=False,
    )
    handlers: list[Any] = [
        create_static_files_router(
            f"/static/{frame.version}", directories=[STATIC], include_in_schema=False,
            cache_control=CacheControlHeader(public=True, max_age=31536000, immutable=True), name="static",
        ),
        Router("/", route_handlers=[*login.routes, *preferences.routes, nowhere], include_in_schema=False),
        inside,
        api.router,
    ]  # fmt: skip
    app = Litestar(
        route_handlers=handlers,
        plugins=[HTMXPlugin()],
        middleware=[SameOrigin(deck.settings.public_url), Identify(deck)],
        csrf_config=CSRFConfig(
            secret=secret,
            cookie_name=f"opsdeck_form_{secret[:8]}",
            header_name="x-csrftoken",
            cookie_samesite="strict",
            cookie_secure=secure,
            cookie_httponly=True,
            exclude=["^/api/v1/"],
        ),
        dependencies={
            "deck": Provide(provide_deck, sync_to_thread=False),
            "visitor": Provide(provide_visitor, sync_to_thread=False),
        },
        template_config=TemplateConfig(instance=frame.engine),
        exception_handlers=faults.HANDLERS,
        before_send=[harden],
        request_max_body_size=BODY_LIMIT,
        state=State({"deck": deck, "frame": frame, "secure": secure}),
        openapi_config=OpenAPIConfig(
            title="OpsDeck", version=__version__, path="/api/schema", render_plugins=api.RENDER
        ),
        logging_config=None,
        pdb_on_exception=False,
    )
    for manifest in deck.plugins.ordered():
        mount(app, deck, manifest)
    return app


def mount(app: Litestar, deck: Deck, manifest: Manifest) -> None:
    """Put a plugin's pages and static files under `/p/<name>/`; one that cannot be put there is reported by name."""
    try:
        for route in _routes_of(manifest):
            app.register(route)
    except (LitestarException, TypeError, ValueError, AttributeError) as fault:
        deck.plugins.report(manifest.name, "routes", f"{type(fault).__name__}: {fault}")


def _routes_of(manifest: Manifest) -> Sequence[Router]:
    routers = []
    if manifest.routes:
        routers.append(
            Router(
                f"/p/{manifest.name}", route_handlers=list(manifest.routes), guards=[signed_in], include_in_schema=False
            )
        )
    if manifest.open_routes:
        routers.append(
            Router(f"/p/{manifest.name}", route_handlers=list(manifest.open_routes), include_in_schema=False)
        )
    folder = _static_of(manifest)
    if folder is not None:
        routers.append(
            create_static_files_router(f"/p/{manifest.name}/static", directories=[folder], include_in_schema=False)
        )
    return routers


def _static_of(manifest: Manifest) -> str | None:
    from importlib.resources import files

    if manifest.name in {"core", "web"}:
        return None
    try:
        folder = files(manifest.package) / "static"
    except (ModuleNotFoundError, TypeError):
        return None
    return str(folder) if folder.is_dir() else None
