"""Fields of events: a new kind of value is one class, and everything else follows from it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from jobquest.events import catalogue, fast_decode, fields, from_request
from jobquest.events.catalogue import EventType
from jobquest.events.fields import FIELDS, DataField, Kind
from jobquest.web.pages.catalogue import fields_of
from jobquest.web.pages.event_form import event_form
from tests import publish_methods


class YesOrNo(Kind):
    """True or false."""

    word = "yes or no"
    limits = "true or false"
    annotation = "bool"
    fast = bool
    control = "json"
    hint = "true or false"

    @classmethod
    def wrong_with(cls, value: Any) -> str | None:
        return None if isinstance(value, bool) else "Not true or false."


@pytest.fixture
def remote_job(monkeypatch: pytest.MonkeyPatch) -> EventType:
    """A type with a field of the new kind."""
    row = EventType("job.saved", "job-applications", "A job was saved.", ("jobId", "isRemote"))
    monkeypatch.setitem(FIELDS, "isRemote", DataField(YesOrNo, True))
    monkeypatch.setitem(catalogue.CATALOGUE, row.name, row)  # type: ignore[arg-type]
    return row


def test_a_new_kind_of_field_is_one_class(remote_job: EventType) -> None:
    assert remote_job.check({"jobId": "1", "isRemote": 1}, strict=True) == {
        "isRemote": ["Not true or false."]
    }
    data = remote_job.example
    assert from_request("job.saved", "ada", data).data == {"jobId": "job_7", "isRemote": True}
    fast = msgspec.json.Decoder(fast_decode._data(remote_job))
    assert msgspec.to_builtins(fast.decode(msgspec.json.encode(data))) == data
    with pytest.raises(msgspec.ValidationError):
        fast.decode(b'{"jobId": "1", "isRemote": 1}')
    assert fields_of(remote_job)[1] == {
        "name": "isRemote",
        "kind": "yes or no",
        "limits": "true or false",
        "required": True,
        "personal": False,
        "xp": False,
    }
    form = event_form("job.saved", {"data": data}, as_request=True)
    shown = [(field.name, field.control, field.value, field.hint) for field in form.fields]
    assert shown[-1] == ("isRemote", "json", "true", "true or false")
    assert "is_remote: bool" in publish_methods.text()


def _kinds(base: type[Kind] = Kind) -> list[type[Kind]]:
    below = [kind for one in base.__subclasses__() for kind in _kinds(one)]
    return below if base is Kind else [base, *below]


@pytest.mark.parametrize(
    "kind", [one for one in _kinds() if one.__module__ == fields.__name__], ids=lambda one: one.word
)
def test_a_kind_takes_no_value_fast_that_it_refuses(kind: type[Kind]) -> None:
    """Save what begins with white space, see `fast_decode`."""
    taken = 0
    for value in (
        *(True, None, -1, 0, 0.5, 1.0, 7, 100, 100.5, 10**9, 10**9 + 1, 1e9, 2**64, {}),
        *("", "a", "5", "x" * 128, "x" * 129, "x" * 500, "x" * 501, "x" * 5_000, "x" * 5_001),
        *([], ["a"], [1], [""], ["a"] * 100, ["a"] * 101, ["x" * 501], [["a"]]),
    ):
        try:
            msgspec.json.decode(msgspec.json.encode(value), type=kind.fast)
        except msgspec.ValidationError:
            continue
        assert not kind.wrong_with(value), value
        taken += 1
    assert taken >= 3
