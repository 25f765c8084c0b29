"""A rolling upgrade with processes of the version before: its own code, as it was released, is in
`databases/version_0009.tar.xz` (`git archive`, because a checkout may lack the history)."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobquest.read import schema
from tests.dump_tables import CODE, SAFELY
from tests.load import Load
from tests.postgres import Postgres
from tests.service import Service, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.timeout(180)]

PARTITIONS = 6
TAKE_OVER_SECONDS = 10.0  # from the end of the last old process: 0.1 s if the machine is free
HANDLERS = """
from pathlib import Path

def note(event):
    if event.user_id == "waits" and Path("fails").exists():
        raise OSError("not now")

def register(consumer):
    consumer.register_event_handler("achievement.unlocked", note)
"""
BADGE = {"achievementId": "first", "achievementName": "First", "xpAmount": 5}


@pytest.fixture
def instances(
    tmp_path: Path, empty_kafka: str, postgres_server: Postgres
) -> Iterator[tuple[Service, Service]]:
    """One of the version before, one of this version; not started yet."""
    with tarfile.open(CODE) as archive:
        archive.extractall(tmp_path / "code", **SAFELY)
    settings = {
        "KAFKA_BROKER": empty_kafka,
        "KAFKA_PARTITIONS": str(PARTITIONS),
        "DATABASE_URL": postgres_server.new_database(),
        "JOBQUEST_WORKERS": "1",
        "JOBQUEST_HANDLERS": "note_handlers",
    }
    found = []
    for name, program, more in (
        ("old", tmp_path / "code" / "app.py", {}),
        ("new", None, {"JOBQUEST_DATABASE_UPGRADE": "true"}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "note_handlers.py").write_text(HANDLERS)
        made = Service(folder, *([program] if program else []), **settings, **more)
        made.python_path.append(str(folder))
        found.append(made)
    yield found[0], found[1]
    for made in found:
        made.kill()


def test_a_new_instance_beside_an_old_one_waits_takes_over_and_everything_counts_once(
    instances: tuple[Service, Service],
) -> None:
    old, new = instances
    (old.folder / "fails").touch()
    old.start()
    old.post("achievement.unlocked", BADGE, "waits", id="waits")
    wait_for(lambda: old.status()["retrying"] == 1, 30, old.tail)
    new.start()
    with Load(new, old) as load:
        wait_for(lambda: what_supervisor_waits_for(new), 10, new.tail)
        assignments = reading(old)
        assert sum(map(len, assignments.values())) == 8 * PARTITIONS
        [line] = what_supervisor_waits_for(new)
        assert "still works with them" in line
        pids = [process["pid"] for process in old.status()["processes"]]
        assert len(pids) == 2
        assert all(f"(pid {pid})" in line for pid in pids)
        assert line.strip() in new.status()["reason"]
        assert new.get("/readyz").code == 503
        is_taken_by(load, 200)
        processed = processed_by(old)
        wait_for(lambda: processed_by(old) > processed + 100, 30, old.tail)
        assert reading(old) == assignments
        assert load.codes.keys() == {201}
        assert old.stop() == 0
        wait_for(lambda: new.status()["consumerRunning"], TAKE_OVER_SECONDS, new.tail)
        wait_for(lambda: has_all(new), TAKE_OVER_SECONDS, new.tail)
    new.wait_until_caught_up()
    load.check()
    wait_for(lambda: new.get("/api/users/waits").code == 200, 30, new.tail)
    assert new.get("/api/users/waits").json["data"]["xp"] == 5

    old.start()  # again: it says what is wrong, and disturbs nothing
    reason = old.status()["reason"]
    assert old.status()["state"] == "disconnected"
    assert "\n" not in reason
    assert "Give the read side its own database" in reason
    assert new.post("achievement.unlocked", BADGE, "later").code == 201
    new.wait_until_caught_up()
    assert has_all(new)
    assert f"from revision 0009 to {schema.REVISION}" in "".join(new.output)


def what_supervisor_waits_for(service: Service) -> set[str]:
    """Its reasons so far. Other threads say theirs sooner or later."""
    said = [line.partition("supervisor waits: ")[2] for line in list(service.output)]
    return {reason for reason in said if reason}


def reading(service: Service) -> dict[str, list[str]]:
    return {one["id"]: one["assignment"] for one in service.status()["processes"]}


def processed_by(service: Service) -> int:
    return sum(one["processed"] for one in service.status()["processes"])


def has_all(service: Service) -> bool:
    return sum(map(len, reading(service).values())) == 8 * PARTITIONS


def is_taken_by(load: Load, count: int) -> None:
    """Wait until so many more events are taken, of which each second one goes to either."""
    taken = len(load.answered)
    wait_for(lambda: len(load.answered) > taken + count, 30)
