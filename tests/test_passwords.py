"""Operators' passwords: what is kept of them, how they are checked, and how many at once."""

from __future__ import annotations

import statistics
import threading
import time

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.profiles import RFC_9106_LOW_MEMORY

from jobquest.access import passwords
from jobquest.errors import PasswordRefused, TooMany
from tests.service import wait_for

PASSWORD = "correct horse battery"


def test_a_password_is_recognised_and_not_kept() -> None:
    stored = passwords.hashed(PASSWORD)
    assert passwords.verify(stored, PASSWORD)
    assert not passwords.verify(stored, PASSWORD + " ")
    assert PASSWORD not in stored
    assert passwords.hashed(PASSWORD) != stored  # each has a salt of its own
    assert extract_parameters(stored) == RFC_9106_LOW_MEMORY


def test_nobody_has_a_password_where_there_is_no_such_name() -> None:
    for guess in ("", PASSWORD, "A" * 43, "\0" * 32):
        assert not passwords.verify(None, guess)
    assert extract_parameters(passwords._NOBODY) == RFC_9106_LOW_MEMORY


def test_a_check_is_made_even_where_there_is_no_such_name(monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = SlowHasher()
    hasher.may_end.set()
    monkeypatch.setattr(passwords, "_HASHER", hasher)
    assert not passwords.verify(None, PASSWORD)
    assert hasher.most == 1


def test_a_password_is_the_same_from_every_keyboard() -> None:
    stored = passwords.hashed("für Ａda: ﬁne Å")
    assert passwords.verify(stored, "fu\u0308r Ada: fine A\u030a")


@pytest.mark.parametrize("password", ["", "x" * 11, "x" * 1001, "ﬃ" * 3])
def test_a_password_of_another_length_is_refused(password: str) -> None:
    with pytest.raises(PasswordRefused, match=r"^A password has 12 to 1,000 characters\.$"):
        passwords.hashed(password)


@pytest.mark.parametrize("password", ["x" * 12, "ä" * 1000, "🦊" * 12, "\ud800" * 12, "ﷺ" * 1000])
def test_a_password_of_any_characters_is_taken(password: str) -> None:
    assert passwords.verify(passwords.hashed(password), password)


def test_a_password_that_is_too_long_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_HASHER", None)
    assert not passwords.verify(None, "x" * 1001)


def test_a_password_kept_with_other_parameters_is_recognised_and_outdated() -> None:
    old = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    assert passwords.verify(old, PASSWORD)
    assert passwords.is_outdated(old)
    assert not passwords.is_outdated(passwords.hashed(PASSWORD))


def test_what_is_damaged_fits_no_password() -> None:
    for damaged in ("", "x", "$argon2id$v=19$m=65536,t=3,p=4$AAAA", "$argon2id$\udcff"):
        assert not passwords.verify(damaged, PASSWORD)


class SlowHasher:
    """Counts how many checks run at once."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.may_end = threading.Event()
        self._lock = threading.Lock()

    def verify(self, _stored: str, _password: bytes) -> bool:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.may_end.wait(30)
        with self._lock:
            self.running -= 1
        return True


def checking(count: int) -> tuple[list[threading.Thread], list[object]]:
    """Threads that check a password each, and what they are answered."""
    answers: list[object] = []

    def check() -> None:
        try:
            answers.append(passwords.verify("stored", PASSWORD))
        except TooMany as error:
            answers.append(error.retry_after)

    threads = [threading.Thread(target=check) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, answers


def test_two_checks_run_at_once_six_wait_and_the_others_are_sent_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hasher = SlowHasher()
    monkeypatch.setattr(passwords, "_HASHER", hasher)
    monkeypatch.setattr(passwords, "WAIT_SECONDS", 30.0)
    threads, answers = checking(20)
    wait_for(lambda: len(answers) == 12, 10)
    hasher.may_end.set()
    for thread in threads:
        thread.join()
    assert answers == [30.0] * 12 + [True] * 8
    assert hasher.most == 2


def test_nobody_waits_long_for_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = SlowHasher()
    monkeypatch.setattr(passwords, "_HASHER", hasher)
    monkeypatch.setattr(passwords, "WAIT_SECONDS", 0.05)
    threads, answers = checking(3)
    wait_for(lambda: answers == [0.05], 10)
    hasher.may_end.set()
    for thread in threads:
        thread.join()
    assert answers == [0.05, True, True]
    assert passwords.verify("stored", PASSWORD)  # every place is free again


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_an_unknown_name_takes_as_long_as_a_wrong_password() -> None:
    stored, took = passwords.hashed(PASSWORD), {"wrong": list[float](), "unknown": list[float]()}
    for _ in range(200):
        for name, kept in (("wrong", stored), ("unknown", None)):
            began = time.perf_counter()
            assert not passwords.verify(kept, "another password")
            took[name].append(time.perf_counter() - began)
    wrong, unknown = statistics.median(took["wrong"]), statistics.median(took["unknown"])
    assert abs(wrong / unknown - 1) < 0.05, (wrong, unknown)
