"""Limits: how much is allowed, in one process and in several, whatever happens to the file."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess as Process
from pathlib import Path
from typing import Any

import pytest

from jobquest.access import limits as module
from jobquest.access.limits import FILE, SETS, WAYS, Limits

FORK = multiprocessing.get_context("fork")


class Clock:
    """The limits' clock; tests move it."""

    def __init__(self) -> None:
        self.ns = 10**15

    def __call__(self) -> int:
        return self.ns

    def wait(self, seconds: float) -> None:
        self.ns += round(seconds * 10**9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "_now", found)
    return found


@pytest.fixture
def limits(tmp_path: Path, clock: Clock) -> Limits:
    return Limits(tmp_path)


def allowed(limits: Limits, name: str = "ada", *, rate: float = 10, burst: float = 5) -> int:
    """How often it is allowed until it is refused."""
    count = 0
    while not limits.take("test", name, rate, burst):
        count += 1
    return count


# --- a bucket ---


@pytest.mark.parametrize(
    ("rate", "burst"), [(10, 5), (10 / 60, 10), (1 / 7, 3), (100, 100), (3, 1)]
)
def test_a_bucket_gives_what_it_holds_and_then_what_it_gets(
    limits: Limits, clock: Clock, rate: float, burst: int
) -> None:
    assert allowed(limits, rate=rate, burst=burst) == burst
    wait = limits.take("test", "ada", rate, burst)
    assert wait == pytest.approx(1 / rate)
    clock.wait(wait * 0.99)
    assert limits.take("test", "ada", rate, burst) > 0
    clock.wait(wait * 0.011)
    assert allowed(limits, rate=rate, burst=burst) == 1
    clock.wait(burst / rate * 100)
    assert allowed(limits, rate=rate, burst=burst) == burst


def test_a_refusal_costs_nothing(limits: Limits, clock: Clock) -> None:
    allowed(limits)
    waits = [limits.take("test", "ada", 10, 5) for _ in range(100)]
    assert len(set(waits)) == 1


def test_what_is_given_back_can_be_taken_again_and_no_more(limits: Limits, clock: Clock) -> None:
    assert allowed(limits) == 5
    limits.take("test", "ada", 10, 5, -2)
    assert allowed(limits) == 2
    limits.take("test", "ada", 10, 5, -50)
    assert allowed(limits) == 5


def test_each_kind_and_name_has_a_bucket_of_its_own(limits: Limits) -> None:
    names = ["", "ada", "Ada", "a" * 100_000, "ada\0", "\udcff", "тест"]
    assert [allowed(limits, name) for name in names] == [5] * len(names)
    assert not limits.take("other", "ada", 10, 5)


def test_a_batch_takes_one_for_each_event(limits: Limits, clock: Clock) -> None:
    assert not limits.take("test", "ada", 100, 100, n=60)
    assert limits.take("test", "ada", 100, 100, n=60) == pytest.approx(0.2)
    assert not limits.take("test", "ada", 100, 100, n=40)


def test_a_batch_larger_than_the_bucket_is_taken_and_paid_for(limits: Limits, clock: Clock) -> None:
    assert not limits.take("test", "ada", 100, 100, n=1000)
    assert limits.take("test", "ada", 100, 100) == pytest.approx(9.01)
    clock.wait(9.02)
    assert not limits.take("test", "ada", 100, 100)
    assert limits.take("test", "ada", 100, 100, n=1000) == pytest.approx(0.99)  # full again


def test_two_processes_share_what_is_in_the_file(tmp_path: Path, limits: Limits) -> None:
    other = Limits(tmp_path)
    assert allowed(limits) == 5
    assert other.take("test", "ada", 10, 5) > 0


# --- many names ---


def test_many_names_lock_nobody_out(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETS", 4)  # so that a few names are many
    for at in range(1000):
        assert not limits.take("test", f"stranger {at}", 10, 5)
    assert not limits.take("test", "ada", 10, 5)


def test_the_name_that_waits_longest_is_the_last_to_be_forgotten(
    limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETS", 1)
    allowed(limits, "guesser")
    for at in range(1000):
        limits.take("test", f"stranger {at}", 10, 5)
    assert limits.take("test", "guesser", 10, 5) > 0


def test_two_files_have_their_places_in_another_order(tmp_path: Path, clock: Clock) -> None:
    words = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        limits = Limits(tmp_path / name)
        limits.take("test", "ada", 10, 5)
        words.append((tmp_path / name / FILE).read_bytes()[4096:])
        assert words[-1].count(0) > len(words[-1]) - 17  # one tag and one time
    assert words[0].strip(b"\0") != words[1].strip(b"\0")


# --- the file ---


def test_the_file_has_a_fixed_size_and_is_for_its_owner_only(
    tmp_path: Path, limits: Limits
) -> None:
    size = (tmp_path / FILE).stat().st_size
    for at in range(2000):
        limits.take("test", str(at), 10, 5)
    assert (tmp_path / FILE).stat().st_size == size == 4096 + SETS * WAYS * 16
    assert (tmp_path / FILE).stat().st_blocks * 512 >= size  # a full disk can't end the process
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {FILE, f"{FILE}.lock"}


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "short": content[:-1],
            "long": content + b"x",
            "foreign": b"x" * len(content),
            "other boot": content[:16] + b"b" * 36 + content[52:],
            "other format": b"jobquest limits0" + content[16:],
        }[how]
    )


@pytest.mark.parametrize("how", ["empty", "short", "long", "foreign", "other boot", "other format"])
def test_a_file_that_is_damaged_or_from_before_a_boot_is_made_anew(
    tmp_path: Path, clock: Clock, how: str
) -> None:
    first = Limits(tmp_path)
    assert allowed(first) == 5
    first.close()
    damaged(tmp_path / FILE, how)
    again = Limits(tmp_path)
    assert allowed(again) == 5
    assert Limits(tmp_path).take("test", "ada", 10, 5) > 0


def test_a_file_as_it_should_be_is_kept(tmp_path: Path, clock: Clock) -> None:
    first = Limits(tmp_path)
    allowed(first)
    first.close()
    assert Limits(tmp_path).take("test", "ada", 10, 5) > 0


def test_numbers_that_mean_nothing_lock_nobody_out(
    tmp_path: Path, limits: Limits, clock: Clock
) -> None:
    limits.take("test", "ada", 10, 5)
    content = bytearray((tmp_path / FILE).read_bytes())
    at = next(at for at in range(4096, len(content), 8) if any(content[at : at + 8]))
    with (tmp_path / FILE).open("r+b") as file:
        file.seek(at + 8 * WAYS)
        file.write(b"\xff" * 8)
    assert allowed(limits) == 5


@pytest.mark.parametrize("how", ["removed", "replaced", "cut off"])
def test_processes_find_each_other_again_if_the_file_changes(
    tmp_path: Path, limits: Limits, clock: Clock, how: str
) -> None:
    other = Limits(tmp_path)
    other.take("test", "ada", 10, 5)
    if how == "removed":
        (tmp_path / FILE).unlink()
    elif how == "replaced":
        (tmp_path / "new").write_bytes((tmp_path / FILE).read_bytes())
        os.replace(tmp_path / "new", tmp_path / FILE)
    else:
        os.truncate(tmp_path / FILE, 100)
    clock.wait(1)
    assert allowed(limits, "eve") == 5
    assert other.take("test", "eve", 10, 5) > 0


def test_limits_count_on_if_the_folder_is_gone(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "data").mkdir()
    limits = Limits(tmp_path / "data")
    for path in (tmp_path / "data").iterdir():
        path.unlink()
    (tmp_path / "data").rmdir()
    clock.wait(1)
    assert allowed(limits) == 5


def test_nothing_stays_open_when_it_is_closed(tmp_path: Path) -> None:
    Limits(tmp_path).close()  # whatever is opened once for a process
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        Limits(tmp_path).close()
    assert len(os.listdir("/proc/self/fd")) == before


# --- threads and processes ---


class SlowWords:
    """The words of a file, read so slowly that other threads run in between."""

    def __init__(self, words: Any) -> None:
        self.words = words

    def __getitem__(self, part: slice) -> Any:
        found = bytes(self.words[part])
        time.sleep(0.001)
        return memoryview(found).cast("Q")

    def __setitem__(self, at: int, value: int) -> None:
        self.words[at] = value


def test_threads_take_no_more_than_one_alone(tmp_path: Path) -> None:
    limits, counts = Limits(tmp_path), list[int]()
    limits._file._words = SlowWords(limits._file._words)  # type: ignore[assignment]

    def hammer() -> None:
        counts.append(sum(not limits.take("test", "one", 0.01, 30) for _ in range(10)))

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 30


@contextmanager
def hammering(*arguments: Any) -> Iterator[tuple[list[Process], Any]]:
    """Four processes that run `hammer`, and what they put out."""
    out = FORK.SimpleQueue()
    started = [FORK.Process(target=hammer, args=(out, *arguments)) for _ in range(4)]
    for process in started:
        process.start()
    try:
        yield started, out
    finally:
        for process in started:
            process.kill()
            process.join()


def hammer(out: Any, folder: Path, seconds: float, rate: float, burst: float) -> None:
    """Take from one bucket as often as possible."""
    limits, counted, end = Limits(folder), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        counted += not limits.take("test", "one", rate, burst)
    out.put(counted)


@pytest.mark.slow
def test_processes_together_get_exactly_what_one_would(tmp_path: Path) -> None:
    limits, began = Limits(tmp_path), time.monotonic()
    with hammering(tmp_path, 2.0, 500, 1000) as (processes, out):
        total = sum(out.get() for _ in processes)
    while not limits.take("test", "one", 500, 1000):  # what they have left
        total += 1
    took = time.monotonic() - began
    assert 1000 + 500 * 2 <= total <= 1000 + 500 * took


@pytest.mark.slow
def test_a_process_that_is_killed_holds_nobody_up(tmp_path: Path) -> None:
    limits = Limits(tmp_path)
    for _ in range(5):
        with hammering(tmp_path, 60, 1e9, 1e6):
            time.sleep(0.1)
        began = time.process_time()
        assert limits.take("test", "one", 1e9, 1e6) < 0.01
        assert time.process_time() - began < 0.05
    assert allowed(limits, "ada", rate=0.1, burst=300) == 300


@pytest.mark.slow
def test_a_process_that_is_suspended_holds_up_nobody_for_long(tmp_path: Path) -> None:
    limits = Limits(tmp_path)
    is_ready = FORK.Event()

    def hold() -> None:
        with (tmp_path / FILE).open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            is_ready.set()
            time.sleep(60)

    process = FORK.Process(target=hold)
    process.start()
    try:
        assert is_ready.wait(30)
        began = time.monotonic()
        assert not limits.take("test", "ada", 0.1, 1)
        assert 0.02 < time.monotonic() - began < 2
    finally:
        process.kill()
        process.join()
    assert limits.take("test", "ada", 0.1, 1) > 0


def test_a_file_system_without_locks_is_no_reason_to_refuse(
    limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module, "_lockf", none)
    assert allowed(limits) == 5


@pytest.mark.alone
def test_a_look_at_a_limit_costs_microseconds(tmp_path: Path) -> None:
    limits, took = Limits(tmp_path), []
    for _ in range(100):
        began = time.perf_counter()
        for at in range(100):
            limits.take("publish", f"user {at}", 100, 100)
        took.append((time.perf_counter() - began) / 100)
    assert min(took) < 10e-6, min(took)
