"""What a fault looks like at this door: a clear sentence, the next step, the right status."""

from __future__ import annotations

import logging
from typing import Any

from jinja2_fragments.litestar import HTMXBlockTemplate
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, NotAuthorizedException, ValidationException
from litestar.response import Redirect
from litestar.status_codes import HTTP_500_INTERNAL_SERVER_ERROR

from opsdeck.errors import OpsDeckError
from opsdeck_web.identity import cookies_of, settle
from opsdeck_web.language import _

log = logging.getLogger("opsdeck.web")


def wants_json(request: Request[Any, Any, Any]) -> bool:
    """Tell whether a program asks rather than a person."""
    return request.url.path.startswith("/api/")


def titles(status: int) -> str:
    """Give the headline of a status."""
    named = {
        400: _("This request cannot be read"),
        403: _("Not allowed"),
        404: _("Not found"),
        405: _("Not offered here"),
        409: _("Somebody was faster"),
        413: _("Too large"),
        422: _("This cannot be used"),
        429: _("Too many tries"),
        503: _("Something it needs is gone"),
    }
    return named.get(status, _("This page failed"))


def answer(
    request: Request[Any, Any, Any], status: int, message: str, hint: str = "", *, field: str = "", host: str = ""
) -> Response[Any]:
    """Answer with a fault: JSON for programs, a notice for htmx, a page for people."""
    if wants_json(request):
        parts = {"message": message, "hint": hint, "field": field, "host": host}
        body = {"error": status} | {name: text for name, text in parts.items() if text}
        return Response(body, status_code=status, media_type=MediaType.JSON)
    if "shell" not in request.scope["state"]:
        settle(request.scope, cookies_of(request.scope), None)
    part = request.headers.get("hx-request") == "true"
    return HTMXBlockTemplate(
        template_name="error.html",
        block_name="notice" if part else None,
        context={"status": status, "title": titles(status), "message": message, "hint": hint, "host": host},
        headers={"HX-Retarget": "#notice", "HX-Reswap": "innerHTML"} if part else {},
        status_code=status,
        media_type=MediaType.HTML,
    )


def ours(request: Request[Any, Any, Any], fault: OpsDeckError) -> Response[Any]:
    """Show a known fault."""
    return answer(
        request, fault.status, fault.message, fault.hint or "", field=fault.field or "", host=fault.host or ""
    )


def not_logged_in(request: Request[Any, Any, Any], fault: NotAuthorizedException) -> Response[Any]:
    """Lead to the login page and back again."""
    if wants_json(request):
        return Response(
            {"error": 401, "message": fault.detail, "hint": "send `Authorization: Bearer opd_…`"},
            status_code=401,
            media_type=MediaType.JSON,
            headers={"WWW-Authenticate": "Bearer"},
        )
    if request.headers.get("hx-request") == "true":
        return Response("", status_code=204, headers={"HX-Redirect": "/login"})
    if request.method != "GET" or request.headers.get("accept", "").startswith("text/event-stream"):
        return answer(request, 401, _("You are not logged in, or the session has ended."), _("log in and try again"))
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return Redirect("/login", query_params={"next": target} if target != "/" else None, status_code=303)


def http(request: Request[Any, Any, Any], fault: HTTPException) -> Response[Any]:
    """Show a fault of the protocol; one of our own making (a template that is not there) as what nobody foresaw."""
    if fault.status_code >= HTTP_500_INTERNAL_SERVER_ERROR:
        return unknown(request, fault)
    if isinstance(fault, ValidationException):
        extra: Any = fault.extra or []
        first = extra[0] if isinstance(extra, list) and extra else {}
        field = str(first.get("key", "")) if isinstance(first, dict) else ""
        text = str(first.get("message", fault.detail)) if isinstance(first, dict) else fault.detail
        return answer(request, 400, f"{field}: {text}" if field else text, field=field)
    messages = {
        404: _("There is no page at this address."),
        405: _("This address does not take such a request."),
        413: _("What was sent is larger than this address takes."),
    }
    message, hint = messages.get(fault.status_code, fault.detail), ""
    if fault.status_code == 403 and "CSRF" in fault.detail:
        message = _("The form was open too long, or another site sent it.")
        hint = _("go back, load the page again and repeat")
    elif fault.status_code == 403 and "another site" in fault.detail:
        message = _("Another site sent this request, so nothing was done.")
    return answer(request, fault.status_code, message, hint)


def unknown(request: Request[Any, Any, Any], fault: Exception) -> Response[Any]:
    """Show a fault nobody foresaw: logged whole, shown in one sentence that names whose page it was."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=fault)
    path = request.url.path
    name = type(fault).__name__
    if path.startswith("/p/"):
        plugin = path.split("/")[2]
        message = _("The plugin %(plugin)s failed on this page: %(fault)s.") % {"plugin": plugin, "fault": name}
        return answer(request, HTTP_500_INTERNAL_SERVER_ERROR, message, _("the console's log has the whole story"))
    message = _("This page failed: %(fault)s.") % {"fault": name}
    return answer(request, HTTP_500_INTERNAL_SERVER_ERROR, message, _("the console's log has the whole story"))


def too_deep(request: Request[Any, Any, Any], fault: RecursionError) -> Response[Any]:
    """Refuse JSON that is nested deeper than any parameter is."""
    if not wants_json(request):
        return unknown(request, fault)
    return answer(request, 400, "the JSON is nested too deep.", "send plain parameters")


HANDLERS: dict[Any, Any] = {
    OpsDeckError: ours,
    NotAuthorizedException: not_logged_in,
    HTTPException: http,
    RecursionError: too_deep,
    Exception: unknown,
}
