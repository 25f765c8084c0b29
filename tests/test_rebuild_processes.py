"""A rebuild by several processes makes what one makes, and ends as cleanly, whatever happens."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing import Pipe, active_children, get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from threading import Thread
from typing import Any
from zlib import crc32

import pytest
from msgspec import structs
from sqlalchemy import delete, select

from jobquest.config import load
from jobquest.errors import ReadSideUnavailable
from jobquest.events import OUR_PREFIX, Event
from jobquest.log import NewRecord, Origin, Partition, Record, StoredRecord, dump_headers
from jobquest.read import rebuild as rebuilding
from jobquest.read import shares, tables
from jobquest.read.projection import Change
from jobquest.read.replay import SHADOW, RebuildFailed, Replay, decoded, shadows, without_lock
from jobquest.read.shares import SharesDepend, fold_in_processes
from jobquest.read.user_stats import USER_STATS
from jobquest.runtime import Runtime
from tests.service import ROOT, wait_for
from tests.test_consumer import consume, write
from tests.test_rebuild import (
    OPERATIONAL,
    append,
    damage,
    live_a_life,
    lose,
    rows_of,
    run_sql,
    xp_event,
)
from tests.test_retries import ATTEMPTS, publish

pytestmark = pytest.mark.slow
USERS = 40
NOBODY = 0  # no process has this pid
READING_SECONDS = 3.0  # until a new process has read its events, and less than SQLite waits


def imported_by(module: str) -> set[str]:
    """The modules that a new process has after it imported this one."""
    code = f"import sys, {module}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    return set(found.stdout.decode().split())


def test_a_further_process_imports_only_what_folds_and_a_server_everything_before_it_forks() -> (
    None
):
    assert not imported_by("jobquest.read.shares") & {"flask", "jobquest.runtime", "kafka"}
    assert {"jobquest.application", "jobquest.web"} <= imported_by("jobquest.server")


@pytest.fixture
def runtime(settings: dict[str, str], made_read_side: None) -> Iterator[Runtime]:
    made = Runtime(load({**settings, "JOBQUEST_RETRY_MAX_ATTEMPTS": str(ATTEMPTS)}))
    yield made
    made.consumer.close()
    made.stop()


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> list[int | str]:
    """Processes also for few records. The list gets how many records they folded at the end of each
    rebuild, or the error."""
    ends: list[int | str] = []

    def noting(*given: Any) -> int:
        try:
            ends.append(fold_in_processes(*given))
        except Exception as error:
            ends.append(type(error).__name__)
            raise
        return int(ends[-1])

    monkeypatch.setattr(rebuilding, "SHARED_RECORDS", 0)
    monkeypatch.setattr(shares, "PORTION_RECORDS", 2)
    monkeypatch.setattr(rebuilding, "fold_in_processes", noting)
    return ends


def numbered(runtime: Runtime) -> list[tuple[int, str]]:
    """The events in the order of their numbers."""
    query = select(tables.events.c.seq, tables.events.c.id).order_by(tables.events.c.seq)
    with runtime.database.reading() as connection:
        return [(seq, id) for seq, id in connection.execute(query)]


def test_several_processes_make_the_rows_of_one(runtime: Runtime, shared: list[int | str]) -> None:
    handler = live_a_life(runtime)
    append(runtime, *[xp_event(f"n{n}", f"user_{n % USERS}", n) for n in range(300)])
    handler.users = {"bob"}
    for id in ("waits", "behind"):
        publish(runtime, id, "bob")
    consume(runtime)
    before, kept = rows_of(runtime), rows_of(runtime, OPERATIONAL)
    runtime.rebuild.run()
    by_one = numbered(runtime)
    for processes in (2, 3):
        damage(runtime)
        made = runtime.rebuild.run(processes=processes)
        assert rows_of(runtime) == before
        assert rows_of(runtime, OPERATIONAL) == kept
        assert numbered(runtime) == by_one
        assert shared.pop() == made.records, "no process was asked"
    again = lose(runtime)
    assert again.rebuild.run(processes=2).restored == len(kept["dead_letters"])
    assert shared == [made.records]
    assert numbered(again) == by_one
    again.stop()


def test_a_user_who_has_all_the_events_does_not_end_the_others_early(
    runtime: Runtime, shared: list[int | str]
) -> None:
    for n in range(8):
        publish(runtime, f"ada{n}", "ada")
    for n in range(40):
        publish(runtime, f"n{n}", f"user_{n}")
    consume(runtime)
    before = rows_of(runtime)
    damage(runtime)
    runtime.rebuild.run(processes=3)
    assert shared == [48]
    assert rows_of(runtime) == before


def _poison(runtime: Runtime) -> None:
    write(runtime, "achievements", b"poison")


def _id_of_another_user(runtime: Runtime) -> None:
    # Ten users, so that some of them are in another share.
    append(runtime, *[xp_event("n1", f"user_{n}", 10) for n in range(10)])


def _key_of_another_user(runtime: Runtime) -> None:
    event = xp_event("foreign", "user_1", 10)
    keys = [f"user_{n}".encode() for n in range(10)]
    records = [
        NewRecord(event.topic, key, xp_event(f"foreign{n}", "user_1", n).to_json())
        for n, key in enumerate(keys)
    ]
    for future in runtime.log.append(records):
        future.result(5)


@pytest.mark.parametrize("odd", [_poison, _id_of_another_user, _key_of_another_user])
def test_what_several_can_not_decide_is_left_to_one(
    runtime: Runtime, shared: list[int | str], odd: Any
) -> None:
    append(runtime, *[xp_event(f"n{n}", f"user_{n % 10}", n) for n in range(60)])
    odd(runtime)
    consume(runtime)
    before = rows_of(runtime)
    died = len(rows_of(runtime, (tables.dead_letters,))["dead_letters"])
    run_sql(runtime, delete(tables.dead_letters), delete(tables.outgoing))
    damage(runtime)
    assert runtime.rebuild.run(processes=2).dead_lettered == died
    assert shared == [SharesDepend.__name__]
    assert rows_of(runtime) == before


def test_an_id_of_two_users_is_noticed_even_if_nobody_finds_it_written(
    runtime: Runtime, shared: list[int | str]
) -> None:
    # Users of different processes: within one, the second event is known to be one too many.
    by_share = {crc32(user.encode()) % 2: user for user in map(str, range(10))}
    append(runtime, *[xp_event("same", user, 10) for user in by_share.values()])
    consume(runtime)
    before = rows_of(runtime)
    run_sql(runtime, delete(tables.dead_letters), delete(tables.outgoing))
    damage(runtime)
    with _rebuilding(runtime, processes=2) as ended, _locked(runtime):
        time.sleep(READING_SECONDS)  # no event tells that both have looked for the id
    assert ended == [None]
    assert shared == [SharesDepend.__name__]
    assert rows_of(runtime) == before


def test_an_id_of_ours_that_two_users_have_is_noticed_whoever_is_first(runtime: Runtime) -> None:
    # No producer of ours makes one, but whoever writes to Kafka may.
    def fold(user: str, number: int) -> None:
        event = structs.replace(xp_event("same", user, 10), id=f"{OUR_PREFIX}same")
        record = Record(event.topic, 0, number, user.encode(), event.to_json(), (), 0)
        batch = [number], [(Origin(event.topic, 0, "log"), record)]
        replay, turn = Replay(connection), get_context("spawn").Lock()
        list(shares._folded(replay, connection, [batch], os.getppid(), turn))

    with runtime.database.reading() as connection:
        connection.execution_options(write=True)
        with connection.begin():
            shadows.create_all(connection)
        fold("v", 2)
        fold("v", 3)  # a repeat
        with pytest.raises(SharesDepend):
            fold("u", 1)


def test_a_process_is_sent_records_as_either_log_has_them() -> None:
    headers = (("h", b"\xff"), ("i", b""))
    [stored] = StoredRecord.of_each([("t", 0, 1, b"k", b"v", dump_headers(headers), 5, None)])
    damaged = Record("t", 0, 2, None, None, (), 6, "No checksum.")
    of_kafka = Record("u", 1, 3, b"k", None, headers, 7)
    origins = Origin("t", 0, "one"), Origin("t", 0, "one"), Origin("u", 1, "two")
    for records in ([stored], [of_kafka], [stored, damaged, of_kafka]):
        sent = list(zip(origins[-len(records) :], records, strict=True))
        theirs, ours = Pipe()
        for portion in (*shares._divided(sent, 1, 10), shares._Portion([], [])):
            ours.send_bytes(shares._pack.encode(portion))
        [(numbers, found)] = shares._batches(theirs)
        assert numbers == list(range(11, 11 + len(sent)))
        assert [origin for origin, _ in found] == [origin for origin, _ in sent]
        for (_, one), (_, other) in zip(found, sent, strict=True):
            assert (one.headers, one[:5], one[6:]) == (other.headers, other[:5], other[6:])


# --- what goes wrong ---


@contextmanager
def _rebuilding(runtime: Runtime, processes: int) -> Iterator[list[Exception | None]]:
    """A rebuild whose processes are starting; it is over afterwards. Gives a list of its error."""
    ended: list[Exception | None] = []

    def run() -> None:
        try:
            runtime.rebuild.run(processes=processes)
            ended.append(None)
        except Exception as error:
            ended.append(error)

    thread = Thread(target=run)
    thread.start()
    wait_for(lambda: len(active_children()) == processes, 20)
    yield ended
    thread.join(20)
    assert not active_children()
    assert "rebuild-feeder" not in [one.name for one in threading.enumerate()]


@contextmanager
def _locked(runtime: Runtime) -> Iterator[None]:
    """The database's write lock, held by somebody else."""
    file = runtime.database.engine.url.database
    assert file
    with closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@pytest.fixture
def lived(runtime: Runtime) -> Runtime:
    """One with events of many users, all of them processed."""
    append(runtime, *[xp_event(f"n{n}", f"user_{n % USERS}", n) for n in range(200)])
    consume(runtime)
    return runtime


@pytest.mark.parametrize("which", [0, 1])
def test_a_process_that_is_killed_ends_the_rebuild_and_changes_nothing(
    lived: Runtime, which: int
) -> None:
    before = rows_of(lived)
    with _rebuilding(lived, processes=2) as ended, _locked(lived):
        time.sleep(READING_SECONDS)  # until one of them waits for the lock, and one for its turn
        os.kill(active_children()[which].pid or 0, signal.SIGKILL)
    assert isinstance(ended[0], RebuildFailed)
    assert str(ended[0]) == (
        "A process of the rebuild ended with -9. Nothing was changed. Rebuild again, with"
        " --processes 1 if memory is short."
    )
    assert rows_of(lived) == before
    damage(lived)
    lived.rebuild.run(processes=2)
    assert rows_of(lived) == before


def test_a_database_that_is_locked_for_long_is_told_as_by_one_process(
    lived: Runtime, shared: list[int | str]
) -> None:
    before = rows_of(lived)
    with _rebuilding(lived, processes=2) as ended, _locked(lived):
        wait_for(lambda: ended, 30)
    assert shared == [ReadSideUnavailable.__name__]
    assert isinstance(ended[0], ReadSideUnavailable)
    assert "database is locked" in str(ended[0])
    assert rows_of(lived) == before


def test_a_bug_of_ours_is_named_while_another_process_writes(
    lived: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fold(event: Event) -> Change:
        return Change(adds={"xp": 1 // (event.id != "n7")})

    monkeypatch.setitem(USER_STATS.folds, "xp.earned", fold)  # type: ignore[arg-type]
    [info] = lived.log.describe(["achievements"])
    records = lived.log.read(Partition("achievements", 0), 0, 500)
    entries = decoded([(info.origin, record) for record in records])
    with lived.database.reading() as connection:
        shadows.create_all(connection)
        connection.commit()
        with (
            _locked(lived),
            pytest.raises(RebuildFailed, match=r"n7 \(achievements/0@7\).*ZeroDivisionError"),
            without_lock(connection),
        ):
            Replay(connection).read(entries)


_COMMAND = """
import sys
from jobquest.read import rebuild
from flask.cli import main

if __name__ == "__main__":
    rebuild.SHARED_RECORDS = 0
    sys.argv = ["flask", "--app", "app", "events", "rebuild", "--processes", "2"]
    main()
"""


@contextmanager
def _command(runtime: Runtime, folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """`flask events rebuild` whose two processes are starting, and their pids."""
    script = folder / "command.py"
    script.write_text(_COMMAND)
    settings = {"JOBQUEST_DATA_DIR": str(runtime.config.data_dir), "PYTHONPATH": str(ROOT)}
    command = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=ROOT,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a process group of its own, as in a terminal
    )
    try:
        wait_for(lambda: len(_started_by(command.pid)) == 2, 20)
        yield command, _started_by(command.pid)
    finally:
        command.kill()
        command.communicate(timeout=20)


def _started_by(pid: int) -> list[int]:
    """The processes of shares that this one has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in found if "spawn_main" in _command_of(one)]


def _command_of(pid: str) -> str:
    with suppress(OSError):  # it has just ended
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def _are_gone(pids: list[int]) -> bool:
    return not any("spawn_main" in _command_of(str(pid)) for pid in pids)


@pytest.mark.parametrize("after", [0.0, READING_SECONDS], ids=["starting", "waiting"])
def test_ctrl_c_ends_all_of_it_without_a_traceback(
    lived: Runtime, tmp_path: Path, after: float
) -> None:
    before = rows_of(lived)
    with _command(lived, tmp_path) as (command, pids):
        with _locked(lived):  # so that they are not done yet
            # Ctrl-C has to come at either moment, and nothing outside of a process shows which of
            # them it has reached: so the test waits for longer than an import takes.
            time.sleep(after)  # reason: see above; no event of the process can be waited for
            os.killpg(command.pid, signal.SIGINT)
        said, _ = command.communicate(timeout=20)
    assert command.returncode == 1
    assert said.split() == ["Rebuilding", "from", "the", "log", "Aborted!"]
    wait_for(lambda: _are_gone(pids), 10)
    assert rows_of(lived) == before


def test_processes_that_lose_the_one_that_began_write_nothing_more(
    lived: Runtime, tmp_path: Path
) -> None:
    before = rows_of(lived)
    with _command(lived, tmp_path) as (command, pids):
        with _locked(lived):
            time.sleep(READING_SECONDS)  # until they wait for the lock
            assert not _are_gone(pids)
            command.kill()
            command.wait(10)
        wait_for(lambda: _are_gone(pids), 10)
    written = select(SHADOW[tables.events].c.id)
    with lived.database.reading() as connection:
        assert connection.execute(written).all() == []
    damage(lived)
    lived.rebuild.run()
    assert rows_of(lived) == before


def test_a_process_waits_for_no_turn_without_the_one_that_began(runtime: Runtime) -> None:
    turn, ended = get_context("spawn").Lock(), threading.Event()
    turn.acquire()  # as one that was killed meanwhile

    def fold() -> None:
        with suppress(SystemExit), runtime.database.reading() as connection:
            connection.execution_options(write=True)
            list(shares._folded(Replay(connection), connection, [], NOBODY, turn))
        ended.set()

    Thread(target=fold, daemon=True).start()
    assert ended.wait(20)


def test_a_process_says_nothing_when_the_one_that_began_is_gone(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "collect_seldom", lambda _of: None)  # it is our process, too
    with runtime.database.writing() as connection:
        shadows.create_all(connection)
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    event = xp_event("n1", "ada", 10)
    record = Record(event.topic, 0, 0, b"ada", event.to_json(), (), 0)
    ours.send_bytes(
        shares._pack.encode(shares._Portion([Origin(event.topic, 0, "log")], [(1, 0, record)]))
    )
    ours.send_bytes(shares._pack.encode(shares._Portion([], [])))
    ours.close()
    url = runtime.config.read_side_url
    shares._work(url, os.getppid(), theirs, context.Lock())


def test_processes_that_can_not_be_started_are_told_in_one_line(
    lived: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows_of(lived)
    made: list[Any] = []

    def pipe(_context: BaseContext) -> Any:
        if made:
            raise OSError(errno.EMFILE, "Too many open files")
        made.append(Pipe())
        return made[0]

    monkeypatch.setattr(BaseContext, "Pipe", pipe)
    with pytest.raises(RebuildFailed) as raised:
        lived.rebuild.run(processes=2)
    assert str(raised.value) == (
        "The processes of the rebuild can't be started: Too many open files. Nothing was changed."
        " Rebuild again, with --processes 1."
    )
    assert not active_children()
    assert rows_of(lived) == before
