"""A long run in which our own code misbehaves and is then fixed: no event dies of it, every event
counts once, and one click on Start is enough.

    python -m bench.misbehaving --minutes 10 --rate 100

It starts a real Kafka, a real PostgreSQL and the service, and publishes numbered XP events, among
them a few records that are wrong themselves. Meanwhile handlers fail for some users or are slow, a
projection has a bug for some users, and the database is locked or crashes. In the last third both
also fail for all users, and a column is missing. At the end everything is fixed, Start is clicked
once, and the ledgers of clients, handler and service are compared. Exit code 1 if one is wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
from kafka import KafkaProducer

from bench.soak import Clients, compare_xp
from tests.kafka_broker import KafkaBroker
from tests.load import events_of
from tests.postgres import Postgres
from tests.service import Service, wait_for

SETTLE_SECONDS = 600.0
WRONG_SECONDS = 5.0  # between two records that are not events
HANDLERS = """
import time
from pathlib import Path

from jobquest.read.projections import PROJECTIONS

def is_unlucky(event):
    return event.user_id.endswith("7")

def handle(event):
    if Path("fail-all").exists() or (Path("fail-some").exists() and is_unlucky(event)):
        raise ConnectionError("what this handler calls is away")
    if Path("slow").exists():
        time.sleep(0.05)  # being slow is one of the misbehaviours

def note(event):
    with open("handled", "a") as ledger:
        ledger.write(event.id + "\\n")

def register(consumer):
    consumer.register_event_handler("xp.earned", note)
    consumer.register_event_handler("xp.earned", handle)

def break_on_demand(folds, fold):
    def breaking(event):
        if Path("bug-all").exists() or (Path("bug-some").exists() and is_unlucky(event)):
            event.data["salary"]
        return fold(event)
    folds["xp.earned"] = breaking

for projection in PROJECTIONS:
    if projection.table.name == "daily_xp":
        break_on_demand(projection.folds, projection.folds["xp.earned"])
"""


class Misbehaviour:
    """Ways in which our own code and its database fail; each has ended when its method returns."""

    def __init__(self, service: Service, server: Postgres, url: str, seed: int) -> None:
        self._service, self._server = service, server
        self._url = url.replace("+psycopg", "")
        self._chance = random.Random(seed)
        self._wait = threading.Event().wait
        self.done: Counter[str] = Counter()
        self.partly = [self.fail_some, self.bug_some, self.slow, self.lock, self.crash]
        self.wholly = [self.fail_all, self.bug_all, self.miss_column]

    def make_one(self, choices: list[Callable[[], None]]) -> None:
        chosen = self._chance.choice(choices)
        self.done[chosen.__name__] += 1
        state = self._service.status()
        print(f"  {time.strftime('%H:%M:%S')} {chosen.__name__} ({state['state']})", flush=True)
        chosen()
        self._wait(self._chance.uniform(1, 5))

    def _flag(self, name: str) -> None:
        flag = self._service.folder / name
        flag.touch()
        self._wait(self._chance.uniform(5, 20))
        flag.unlink()

    def fail_some(self) -> None:
        self._flag("fail-some")

    def fail_all(self) -> None:
        self._flag("fail-all")

    def bug_some(self) -> None:
        self._flag("bug-some")

    def bug_all(self) -> None:
        self._flag("bug-all")

    def slow(self) -> None:
        self._flag("slow")

    def lock(self) -> None:
        with psycopg.connect(self._url) as connection:
            connection.execute("LOCK TABLE user_stats IN ACCESS EXCLUSIVE MODE")
            self._wait(self._chance.uniform(2, 15))

    def crash(self) -> None:
        self._server.kill()
        self._wait(self._chance.uniform(0, 10))
        self._server.start()

    def miss_column(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("ALTER TABLE daily_xp RENAME COLUMN xp TO gone")
            self._wait(self._chance.uniform(5, 20))
            connection.execute("ALTER TABLE daily_xp RENAME COLUMN gone TO xp")


class WrongRecords:
    """Appends records that are not events, as another client would that ignores our schemas."""

    def __init__(self, bootstrap: str) -> None:
        self.count = 0
        self._producer = KafkaProducer(bootstrap_servers=bootstrap, api_version=(4, 0))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._producer.close()

    def _run(self) -> None:
        while not self._stop.wait(WRONG_SECONDS):
            self._producer.send("achievements", key=b"user_0", value=b"{").get(30)
            self.count += 1


def misbehave(minutes: float, rate: float, seed: int) -> list[str]:
    """Run it. Returns one line for each thing that was wrong."""
    folder = Path(tempfile.mkdtemp(prefix="misbehaving-"))
    (folder / "misbehaving_handlers.py").write_text(HANDLERS)
    broker, server = KafkaBroker().start(), Postgres().start()
    url = server.new_database()
    service = Service(
        folder,
        KAFKA_BROKER=broker.bootstrap,
        DATABASE_URL=url,
        JOBQUEST_HANDLERS="misbehaving_handlers",
        JOBQUEST_RETRY_MAX_ATTEMPTS="100",
    )
    service.python_path.append(str(folder))
    try:
        service.start()
        wait_for(lambda: service.status()["consumerRunning"], 60, service.tail)
        return _misbehave(service, Misbehaviour(service, server, url, seed), minutes * 60, rate)
    finally:
        service.kill()
        broker.remove()
        server.stop()


def _misbehave(
    service: Service, misbehaviour: Misbehaviour, seconds: float, rate: float
) -> list[str]:
    clients = Clients(service, rate)
    others = WrongRecords(service.settings["KAFKA_BROKER"])
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        some = misbehaviour.partly
        misbehaviour.make_one(some if passed < seconds * 0.7 else some + misbehaviour.wholly)
    misbehaviour.bug_all()
    clients.stop()
    others.stop()
    status = service.status()
    print(f"before the fix: {status['state']}, {status['retrying']} wait, {status['reason']}")
    fixed = time.monotonic()
    answer = service.switch("start")
    print(f"start was clicked once: {answer.code} after {time.monotonic() - fixed:.1f} s")
    states: Counter[str] = Counter()

    def is_quiet() -> bool:
        now = service.status()
        states[now["state"]] += 1
        waiting = now["retrying"] + now["outbox"]["events"] + now["followUpsWaiting"]
        return waiting == 0 and now["lag"]["messages"] == 0

    wait_for(is_quiet, SETTLE_SECONDS, lambda: json.dumps(service.status()) + service.tail())
    print(f"quiet {time.monotonic() - fixed:.0f} s after it was fixed, states {dict(states)}")
    print(f"misbehaviour: {dict(misbehaviour.done)}")
    wrong = [] if answer.code == 200 else [f"start answered {answer.code}: {answer.json}"]
    if "paused" in states:
        wrong.append("paused again after the start")
    return wrong + _compare(service, clients, others.count)


def _compare(service: Service, clients: Clients, wrong_records: int) -> list[str]:
    kept = {event["id"] for event in events_of(service, "xp.earned")}
    dead_letters = service.get("/api/kafka/dead-letters?limit=500").json["data"]["deadLetters"]
    classes = Counter(dead_letter["errorClass"] for dead_letter in dead_letters)
    handled = Counter((service.folder / "handled").read_text().split())
    again = sum(count - 1 for count in handled.values())
    print(f"answers: {dict(clients.codes)}, sent {len(clients.sent)}", end=", ")
    print(f"accepted {len(clients.accepted)}")
    print(f"processed {len(kept)}, dead {dict(classes)} of {wrong_records} that were wrong")
    print(f"calls of the handler that never fails: {sum(handled.values())}, repeated {again}")
    wrong = [f"{len(lost)} lost"] if (lost := clients.accepted - kept) else []
    if classes != Counter(InvalidEvent=wrong_records):
        wrong.append(f"dead: {dict(classes)}, wrong were {wrong_records} records")
    if missed := kept - handled.keys():
        wrong.append(f"{len(missed)} counted without their handler")
    return wrong + compare_xp(service, clients, kept)


def main() -> None:
    parser = argparse.ArgumentParser(description="Misbehave, fix it, click Start once, compare.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--rate", type=float, default=100.0, help="events per second (100)")
    parser.add_argument("--seed", type=int, default=1, help="of the misbehaviours' order (1)")
    options = parser.parse_args()
    wrong = misbehave(options.minutes, options.rate, options.seed)
    for line in wrong:
        print(f"wrong: {line}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
