"""The form made of an action's parameters: what its fields show, and what a sent one says.

Beside the parameters such a form asks what the console itself must know: which hosts, when, consent, a password. The
names of these fields begin with `_`, which no parameter's name does (`Action` sees to it), so that the two never meet,
in a form, in the query that fills it, or in the errors shown at its fields.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from opsdeck.deck import Deck
from opsdeck.errors import OpsDeckError
from opsdeck.jobs import params
from opsdeck.jobs.params import FieldKind, FormField, InvalidParams
from opsdeck.manifest import Action, Targets


async def form_of(
    deck: Deck,
    plugin: str,
    action: Action,
    given: Mapping[str, Any],
    fault: OpsDeckError | None,
    asked: Collection[str],
) -> dict[str, Any]:
    """Give what a page needs to show the form: the fields with what was given, the faults at them, names to offer.

    `asked` names, without the `_`, what the page asks beside the parameters. A fault at a field that the page does not
    show is none of its `faults`: the page tells it as a whole.
    """
    known = params.fields(action.params)
    places = {field.name for field in known} | {f"_{name}" for name in asked}
    faults = {name: text for name, text in faults_of(fault, asked).items() if name in places}
    return {
        "plugin": plugin,
        "action": action,
        "fields": known,
        "own": own_fields(action, known),
        "touched": set(given) | set(faults),
        "values": {field.name: shown(field, given.get(field.name)) for field in known},
        "fault": fault,
        "faults": faults,
        "on_hosts": action.targets is Targets.HOSTS,
        "hosts": [host.name for host in await deck.inventory.list()],
        "secret_names": await deck.secrets.names() if any(field.kind is FieldKind.SECRET for field in known) else (),
    }


def own_fields(action: Action, known: Sequence[FormField]) -> set[str]:
    """Give the parameters that come first: those the action declares itself, and whatever is required.

    What it shares with others (as root, time limit) follows under "more options".
    """
    own = set(inspect.get_annotations(action.params))
    return {field.name for field in known if field.name in own or field.required} or {field.name for field in known}


def shown(field: FormField, given: Any) -> Any:
    """Give what a field shows: what was given, else its default; a list as lines."""
    value = field.default if given is None else given
    if field.kind is FieldKind.BOOLEAN:
        return value if isinstance(value, bool) else str(value).lower() in {"true", "on", "1", "yes"}
    if isinstance(value, list | tuple):
        return "\n".join(str(item) for item in value)
    return "" if value is None else str(value)


def faults_of(fault: OpsDeckError | None, asked: Collection[str] = ()) -> dict[str, str]:
    """Give the faults by field. What the action's model refuses is a parameter; else `asked` goes before."""
    if isinstance(fault, InvalidParams):
        return {error.field.split(".")[0]: error.message for error in fault.errors}
    if fault is None or not fault.field:
        return {}
    return {f"_{fault.field}" if fault.field in asked else fault.field: fault.message}


def sent_back(action: Action, form: Mapping[str, Any]) -> dict[str, Any]:
    """Give a sent form for showing it again; a browser sends nothing for an unchecked box, so that is added."""
    boxes = [field.name for field in params.fields(action.params) if field.kind is FieldKind.BOOLEAN]
    return {name: "false" for name in boxes} | {key: form[key] for key in form}


def raw_of(action: Action, form: Any) -> dict[str, Any]:
    """Give the raw parameters of a sent form: an unchecked box is false, an empty optional field is not given."""
    texts: dict[str, Any] = {}
    for field in params.fields(action.params):
        if field.kind is FieldKind.BOOLEAN:
            texts[field.name] = "true" if form.get(field.name) == "true" else "false"
        elif field.name in form:
            text = str(form[field.name])
            if text != "" or field.required:
                texts[field.name] = text
    return params.from_text(action.params, texts)
