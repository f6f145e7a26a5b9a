"""What a person may say about a host, checked where it enters: the field, the value and the fix named."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from opsdeck.errors import as_value_error
from opsdeck.inventory.names import host_name
from opsdeck.inventory.terms import MAX_BYTES, parse_bytes, parse_price
from opsdeck.ssh.endpoint import Sudo

AGENT = "agent"
"""The credential that is no secret of ours: the SSH agent of the console's user."""

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})\Z")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}\Z")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}\Z")
_VALUE = re.compile(r"[^,=\x00-\x1f]{0,100}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@as_value_error()
def _name(value: object) -> object:
    return host_name(value) if isinstance(value, str) else value


def _address(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.strip()
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not bare:
        raise ValueError("it is empty; give a host name or an IP address")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    if "@" in bare:
        raise ValueError(f"{text!r} holds a user; give the user in its own field")
    if re.fullmatch(r"\[?[^\s:]+\]?:\d+", text):
        raise ValueError(f"{text!r} holds a port; give the port in its own field")
    if not _HOST.match(bare):
        raise ValueError(f"{text!r} is neither a host name nor an IP address")
    return bare


def _user(value: object) -> object:
    if isinstance(value, str) and not _USER.match(value.strip()):
        raise ValueError(f"{value!r} is no user name")
    return value.strip() if isinstance(value, str) else value


def _tags(value: object) -> object:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list | tuple | set | frozenset):
        pairs = (str(item).partition("=") for item in value)
        value = {key.strip(): text.strip() for key, _, text in pairs}
    if isinstance(value, Mapping):
        for key, text in value.items():
            if not isinstance(key, str) or not _TAG.match(key):
                raise ValueError(f"{key!r} is no tag; use letters, digits, '.', '_', '-' and '/'")
            if not isinstance(text, str) or not _VALUE.match(text):
                raise ValueError(f"tag {key!r} has the value {text!r}, which holds ',', '=' or a control character")
    return value


def tag_words(tags: Mapping[str, str]) -> list[str]:
    """Give tags as they are typed: `role=edge`, `prod`."""
    return [f"{key}={value}" if value else key for key, value in tags.items()]


def _bytes(value: object) -> object:
    if isinstance(value, str):
        return parse_bytes(value) if value.strip() else None
    return value


def _blank(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


def _line(value: object) -> object:
    if isinstance(value, str):
        value = value.strip()
        if _CONTROL.search(value):
            raise ValueError("it holds a line break or a control character")
    return value


Name = Annotated[str, BeforeValidator(_name)]
Address = Annotated[str, BeforeValidator(_address)]
Port = Annotated[int, Field(ge=1, le=65535)]
User = Annotated[str, BeforeValidator(_user)]
Credential = Annotated[str, BeforeValidator(_line), Field(min_length=1, max_length=100)]
Jump = Annotated[Name | None, BeforeValidator(_blank)]
SudoSecret = Annotated[Annotated[str, Field(max_length=100)] | None, BeforeValidator(_blank)]
Tags = Annotated[dict[str, str], BeforeValidator(_tags)]
Line = Annotated[str, BeforeValidator(_line), Field(max_length=200)]
Latitude = Annotated[Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)] | None, BeforeValidator(_blank)]
Longitude = Annotated[Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)] | None, BeforeValidator(_blank)]
Amount = Annotated[Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None, BeforeValidator(_blank)]
Currency = Annotated[str, BeforeValidator(_line), Field(pattern=r"^([A-Z]{3})?$")]
Period = Literal["month", "year"]
Renewal = Annotated[date | None, BeforeValidator(_blank)]
Quota = Annotated[Annotated[int, Field(ge=1, le=MAX_BYTES)] | None, BeforeValidator(_bytes)]
ResetDay = Annotated[int, Field(ge=1, le=31)]
Counts = Literal["in", "out", "both", "max"]
Notes = Annotated[str, Field(max_length=10_000)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _split_price(cls, data: Any) -> Any:
        """Let `price` be given as one text, `4.99 EUR/month`."""
        if not isinstance(data, Mapping) or not isinstance(data.get("price"), str) or not data["price"].strip():
            return data
        try:
            price = parse_price(data["price"])
        except ValueError as fault:
            raise ValueError(f"price: {fault}") from fault
        said: dict[str, object] = {"price": price.amount}
        if price.currency:
            said["currency"] = price.currency
        if "/" in data["price"] or " per " in data["price"]:
            said["price_period"] = price.period
        return {**data, **said}

    @model_validator(mode="after")
    def _both_coordinates(self) -> _Form:
        place = (getattr(self, "latitude", None), getattr(self, "longitude", None))
        if (place[0] is None) != (place[1] is None):
            raise ValueError("longitude: latitude and longitude go together; give both or neither")
        return self


class HostIn(_Form):
    """A host as a person adds it."""

    name: Name = Field(title="Name")
    address: Address = Field(title="Address", description="Host name or IP address")
    port: Port = Field(22, title="Port")
    user: User = Field("root", title="User")
    credential: Credential = Field(AGENT, title="Credential", description="Secret that logs in, or agent")
    jump: Jump = Field(None, title="Jump host", description="Host to go through")
    sudo: Sudo = Field(Sudo.NONE, title="sudo", description="How commands become root")
    sudo_secret: SudoSecret = Field(None, title="sudo password", description="Secret with the sudo password")
    tags: Tags = Field(default_factory=dict, title="Tags", description="role=edge, prod")
    region: Line = Field("", title="Region")
    latitude: Latitude = Field(None, title="Latitude")
    longitude: Longitude = Field(None, title="Longitude")
    provider: Line = Field("", title="Provider")
    price: Amount = Field(None, title="Price", description="4.99 EUR/month")
    currency: Currency = Field("", title="Currency")
    price_period: Period = Field("month", title="Paid each")
    renewal: Renewal = Field(None, title="Renewal", description="Day of the next renewal")
    quota_bytes: Quota = Field(None, title="Monthly traffic", description="1TB, 500GB")
    quota_reset_day: ResetDay = Field(1, title="Traffic counts anew on day")
    quota_counts: Counts = Field("both", title="Traffic that counts")
    notes: Notes = Field("", title="Notes")


class HostPatch(_Form):
    """What changes about a host: only the fields that were given. `jump=None` means that it is reached directly."""

    name: Name | None = None
    address: Address | None = None
    port: Port | None = None
    user: User | None = None
    credential: Credential | None = None
    jump: Jump = None
    sudo: Sudo | None = None
    sudo_secret: SudoSecret = None
    tags: Tags | None = None
    region: Line | None = None
    latitude: Latitude = None
    longitude: Longitude = None
    provider: Line | None = None
    price: Amount = None
    currency: Currency | None = None
    price_period: Period | None = None
    renewal: Renewal = None
    quota_bytes: Quota = None
    quota_reset_day: ResetDay | None = None
    quota_counts: Counts | None = None
    notes: Notes | None = None

    CLEARABLE: ClassVar = frozenset({"jump", "sudo_secret", "latitude", "longitude", "price", "renewal", "quota_bytes"})

    def changes(self) -> dict[str, Any]:
        """Give the given fields by name; a field that cannot be empty and was given as None is left as it is."""
        given = self.model_dump(include=set(self.model_fields_set))
        return {name: value for name, value in given.items() if value is not None or name in self.CLEARABLE}
