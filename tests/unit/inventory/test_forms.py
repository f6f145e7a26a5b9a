from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from opsdeck.errors import Invalid
from opsdeck.forms import checked
from opsdeck.inventory.forms import HostIn, HostPatch


def test_a_whole_host() -> None:
    form = checked(
        HostIn,
        {
            "name": "Edge-1",
            "address": " edge1.example ",
            "port": "2222",
            "tags": "role=edge, prod",
            "price": "4.99 EUR/year",
            "renewal": "2027-01-31",
            "quota_bytes": "1TiB",
            "quota_reset_day": 31,
            "latitude": "50.1",
            "longitude": "8.7",
        },
    )
    assert (form.name, form.address, form.port) == ("edge-1", "edge1.example", 2222)
    assert form.tags == {"role": "edge", "prod": ""}
    assert (form.price, form.currency, form.price_period) == (4.99, "EUR", "year")
    assert form.renewal == date(2027, 1, 31)
    assert form.quota_bytes == 2**40


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"address": ""}, "address"),
        ({"address": "two words"}, "address"),
        ({"address": "root@host"}, "address"),
        ({"address": "host:22"}, "address"),
        ({"address": "-oProxyCommand=id"}, "address"),
        ({"address": "a\nb"}, "address"),
        ({"port": 0}, "port"),
        ({"port": "ssh"}, "port"),
        ({"port": 65536}, "port"),
        ({"user": ""}, "user"),
        ({"user": "-l"}, "user"),
        ({"credential": ""}, "credential"),
        ({"sudo": "maybe"}, "sudo"),
        ({"tags": "a=b=c"}, "tags"),
        ({"tags": {"!x": ""}}, "tags"),
        ({"quota_reset_day": 0}, "quota_reset_day"),
        ({"quota_reset_day": 32}, "quota_reset_day"),
        ({"quota_bytes": "1 lorry"}, "quota_bytes"),
        ({"quota_bytes": "0"}, "quota_bytes"),
        ({"price": "cheap"}, "price"),
        ({"price": -1}, "price"),
        ({"currency": "euro"}, "currency"),
        ({"renewal": "31.12.2026"}, "renewal"),
        ({"latitude": 91, "longitude": 0}, "latitude"),
        ({"latitude": 1}, "longitude"),
        ({"latitude": float("nan"), "longitude": 0}, "latitude"),
        ({"region": "a\nb"}, "region"),
        ({"name": "all"}, "name"),
        ({"colour": "red"}, "colour"),
        ({"id": 7}, "id"),
    ],
)
def test_a_wrong_field_is_named(given: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as fault:
        checked(HostIn, {"name": "web1", "address": "192.0.2.1"} | given)
    assert fault.value.field == field, fault.value
    assert fault.value.hint
    assert fault.value.message.endswith(".")
    assert "\n" not in str(fault.value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(Invalid) as fault:
        checked(HostIn, {"name": "web1"})
    assert (fault.value.field, fault.value.message) == ("address", "address: it is needed.")


@pytest.mark.parametrize(
    ("text", "expected"), [("[2001:db8::1]", "2001:db8::1"), ("2001:DB8::1", "2001:db8::1"), ("::1", "::1")]
)
def test_addresses_of_version_six(text: str, expected: str) -> None:
    assert checked(HostIn, {"name": "a", "address": text}).address == expected


def test_a_patch_says_only_what_was_given() -> None:
    assert checked(HostPatch, {}).changes() == {}
    assert checked(HostPatch, {"jump": None, "region": "fra"}).changes() == {"jump": None, "region": "fra"}
    assert checked(HostPatch, {"jump": "", "port": None}).changes() == {"jump": None}
    assert checked(HostPatch, {"quota_bytes": ""}).changes() == {"quota_bytes": None}
    assert checked(HostPatch, {"price": "5/year"}).changes() == {"price": 5.0, "price_period": "year"}


def test_a_patch_is_checked_as_a_host_is() -> None:
    with pytest.raises(Invalid) as fault:
        checked(HostPatch, {"port": 99999}, host="web1")
    assert (fault.value.host, fault.value.field) == ("web1", "port")
