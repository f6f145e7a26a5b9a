"""Parameters: one model, the same meaning at every door."""

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, model_validator

from opsdeck.cli.options import PREFIX, collect, options
from opsdeck.errors import Invalid
from opsdeck.jobs.params import FieldKind, InvalidParams, dump, fields, from_text, parse
from opsdeck.manifest import Action, HostName, Multiline, SecretName
from opsdeck.secrets.sensitive import Sensitive


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    port: int


class Everything(BaseModel):
    name: str = Field(title="Name", description="What it is called.", max_length=20, pattern="^[^!]*$")
    text: Multiline = ""
    count: int = Field(3, ge=1, le=9, json_schema_extra={"unit": "hosts"})
    share: float | None = None
    sure: bool = False
    colour: Colour = Colour.RED
    way: Literal["up", "down"] = "up"
    words: list[str] = []
    colours: list[Colour] = []
    key: SecretName | None = None
    host: HostName | None = None
    file: Path | None = None
    wait: timedelta = timedelta(seconds=5)
    inner: Inner | None = None
    inners: list[Inner] = []


ACTION = Action("try_it", "Try", "…", params=Everything, step=lambda step, given: None)


def test_a_door_learns_all_it_must_ask():
    found = {field.name: field for field in fields(Everything)}
    kinds = {name: field.kind for name, field in found.items()}
    assert kinds == {
        "name": FieldKind.TEXT,
        "text": FieldKind.MULTILINE,
        "count": FieldKind.INTEGER,
        "share": FieldKind.NUMBER,
        "sure": FieldKind.BOOLEAN,
        "colour": FieldKind.CHOICE,
        "way": FieldKind.CHOICE,
        "words": FieldKind.LIST,
        "colours": FieldKind.LIST,
        "key": FieldKind.SECRET,
        "host": FieldKind.HOST,
        "file": FieldKind.PATH,
        "wait": FieldKind.DURATION,
        "inner": FieldKind.JSON,
        "inners": FieldKind.LIST,
    }
    assert [name for name, field in found.items() if field.required] == ["name"]
    assert (found["name"].title, found["name"].help, found["name"].max_length) == ("Name", "What it is called.", 20)
    assert (found["count"].minimum, found["count"].maximum, found["count"].default, found["count"].unit) == (
        1,
        9,
        3,
        "hosts",
    )
    assert found["colour"].choices == found["colours"].choices == ("red", "blue")
    assert found["way"].choices == ("up", "down")
    assert (found["words"].item, found["inners"].item) == (FieldKind.TEXT, FieldKind.JSON)
    assert found["share"].nullable and not found["count"].nullable


def test_texts_of_a_form_become_values():
    given = {
        "name": "",
        "text": "a\r\nb",
        "count": "4",
        "share": "",
        "sure": "on",
        "words": "one\r\ntwo\n",
        "colours": ["red", "blue"],
        "inner": '{"port": 5}',
        "key": "",
    }
    params = parse("test", ACTION, from_text(Everything, given))
    assert dump(params) | {"wait": 0} == {
        "name": "",
        "text": "a\nb",
        "count": 4,
        "share": None,
        "sure": True,
        "colour": "red",
        "way": "up",
        "words": ["one", "two"],
        "colours": ["red", "blue"],
        "key": None,
        "host": None,
        "file": None,
        "wait": 0,
        "inner": {"port": 5},
        "inners": [],
    }
    assert parse("test", ACTION, dump(params)) == params


def test_every_bad_field_is_named():
    with pytest.raises(InvalidParams) as caught:
        parse("test", ACTION, {"count": 99, "colour": "green", "nmae": "x"})
    assert {error.field for error in caught.value.errors} == {"nmae", "name", "count", "colour"}
    assert caught.value.exit_code == 2
    with pytest.raises(Invalid) as broken:
        from_text(Everything, {"inner": "{"})
    assert broken.value.field == "inner"


def test_a_value_that_is_a_secret_is_not_taken():
    class Careless(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        password: Sensitive

    action = Action("careless", "…", "…", params=Careless, step=lambda step, given: None)
    with pytest.raises(Invalid) as caught:
        parse("test", action, {"password": "hunter22"})
    assert "hunter22" not in str(caught.value)


def test_options_are_made_of_the_same_fields():
    flags = [option.opts[0] for option in options(Everything)]
    assert flags == [f"--{name}" for name in Everything.model_fields]


@given(st.text(), st.lists(st.text(alphabet=st.characters(exclude_characters="\n\r"), min_size=1), min_size=2))
def test_what_is_given_on_a_command_line_arrives_as_it_is(name, words):
    given = {PREFIX + "name": name, PREFIX + "words": tuple(words)}
    raw = collect(Everything, given)
    assert raw.get("name", "") == name
    assert raw["words"] == [word for word in words if word]
    assert collect(Everything, {"params": [f"name={name}", *(f"words={word}" for word in words)]}) == raw


@given(
    st.dictionaries(st.text(max_size=10), st.recursive(st.none() | st.text() | st.integers() | st.floats(), st.lists))
)
def test_nothing_that_is_given_does_more_than_be_refused(raw):
    try:
        parse("test", ACTION, raw)
    except InvalidParams as fault:
        assert fault.field


def test_what_is_wrong_with_all_of_them_names_no_field():
    class Pair(BaseModel):
        model_config = ConfigDict(extra="forbid")
        one: str = ""

        @model_validator(mode="after")
        def _given(self) -> Self:
            if not self.one:
                raise ValueError("give one")
            return self

    action = Action("pair", "t", "s", params=Pair, step=lambda step, given: None)
    with pytest.raises(InvalidParams) as caught:
        parse("test", action, {})
    assert caught.value.message == "parameters of test.pair: give one."
    with pytest.raises(InvalidParams) as caught:
        parse("test", action, {"ome": "x"})
    assert caught.value.message == "parameter 'ome' of test.pair: there is no such parameter."


def test_an_option_says_its_unit_and_that_it_may_be_repeated():
    class Waiting(BaseModel):
        limit: int = Field(90, title="Time limit", json_schema_extra={"unit": "s"})
        words: list[str] = Field([], title="Words")

    limit, words = options(Waiting)
    assert limit.metavar == "SECONDS"
    assert words.help == "Words. Repeat for more."
