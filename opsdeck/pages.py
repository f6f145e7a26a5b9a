"""The one way to answer with a page, for the console's own rooms and for plugins."""

from __future__ import annotations

from typing import Any

from jinja2_fragments.litestar import HTMXBlockTemplate
from litestar.plugins.htmx import HTMXRequest


def page(
    request: HTMXRequest, template: str, block: str | None = None, *, status: int = 200, **context: Any
) -> HTMXBlockTemplate:
    """Answer with a page, or with its `block` alone when htmx asks for a part of it."""
    part = bool(request.htmx) and not request.htmx.boosted and not request.htmx.history_restore_request
    return HTMXBlockTemplate(
        template_name=template,
        block_name=block if part else None,
        context=context,
        headers={"Vary": "HX-Request"},
        status_code=status,
        media_type="text/html",
    )
