"""User ids that nobody can see: refused at the door, processed as another producer wrote them."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest
from flask.testing import FlaskClient

from jobquest.errors import InvalidEvent
from jobquest.events import from_record, from_request
from tests.test_http import EVENTS, LOGIN, data_of, error_of

UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Cs", "Cn")
# The first, and the last, of each category, and some that have a name for mischief.
FIRST = {unicodedata.category(chr(n)): chr(n) for n in range(sys.maxunicode, -1, -1)}
LAST = {unicodedata.category(chr(n)): chr(n) for n in range(sys.maxunicode + 1)}
MISCHIEF = (
    "\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2060\u2066\u2069\ufeff\u00ad\u061c\U000e0041"
)
REFUSED = sorted({*(FIRST[name] for name in UNSEEN), *(LAST[name] for name in UNSEEN), *MISCHIEF})
TAKEN = ["ada", "é", "名前", "😀", "a b", "שלום", "e\u0301", "a/b", "..", "\ue000"]


@pytest.mark.parametrize("character", REFUSED, ids=ascii)
def test_a_user_id_with_what_cannot_be_seen_is_refused_by_name(
    shared_client: FlaskClient, character: str
) -> None:
    name = f"U+{ord(character):04X}"
    with pytest.raises(InvalidEvent) as refused:
        from_request("user.login", f"a{character}b", {})
    says = f"Must not contain {name}, which can't be seen."
    assert refused.value.errors["userId"] == [says]
    is_no_json = unicodedata.category(character) == "Cs" or character == "\x00"
    for user in (f"a{character}b", character + "a", "a" + character):
        body = json.dumps({**LOGIN, "userId": user})
        answer = error_of(
            shared_client.post(EVENTS, data=body, content_type="application/json"), 400
        )
        assert is_no_json or answer["errors"]["userId"] == [says]


@pytest.mark.parametrize("user", TAKEN, ids=ascii)
def test_a_user_id_that_can_be_seen_is_taken(shared_client: FlaskClient, user: str) -> None:
    assert (
        data_of(shared_client.post(EVENTS, json={**LOGIN, "userId": user}), 201)["userId"] == user
    )


@pytest.mark.parametrize("category", ["Cf", "Cn"])
def test_records_of_such_users_are_processed(category: str) -> None:
    for character in (FIRST[category], LAST[category], "\u200b"):
        document = {"id": "a", "type": "user.login", "userId": f"a{character}", "data": {}}
        value = json.dumps({**document, "timestamp": "2026-01-01T00:00:00Z"}).encode()
        assert from_record(value, 1_795_000_000_000).user_id == f"a{character}"
