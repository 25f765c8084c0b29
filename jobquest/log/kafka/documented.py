"""kafka-python through what it documents: correct on versions that were not tried here, and slower.

Its limit: if a header's name is no UTF-8, the record and the rest of its batch are damaged, because
the library unpacks no further.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import CorruptRecordError, KafkaError, KafkaTimeoutError, UnsupportedCodecError

from jobquest.errors import LogUnavailable
from jobquest.log import Record
from jobquest.log.kafka.library import Addresses, Answers, Entry, damaged

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 1.0  # one attempt to close a producer
CLOSE_ATTEMPTS = 20  # for longer than the library tries to send what it has (12 s)
PROBE_MS = 2_000
_DAY_MS = 24 * 3_600_000
_UNPACKING = (CorruptRecordError, UnsupportedCodecError)


class DocumentedLibrary:
    """See `Library`."""

    def __init__(self) -> None:
        self.addresses = Addresses()
        self._connecting: Future[Any] | None = None

    def producer(self, answers: Answers, **settings: Any) -> DocumentedProducer:
        """See `Library.producer`."""
        settings |= self.addresses.settings(KafkaProducer)
        return DocumentedProducer(KafkaProducer(**settings), answers)

    def reader(self, **settings: Any) -> DocumentedReader:
        """See `Library.reader`."""
        return DocumentedReader(settings | self.addresses.settings(KafkaConsumer))

    def admin(self, timeout_ms: int, **settings: Any) -> Any:
        """See `Library.admin`. A client that can't connect leaves a thread and open files behind,
        which nothing documented ends (3.0.12). So there is only one at a time: it keeps trying in
        its own thread, and the next caller waits for the same one."""
        if self._connecting is None:
            self._connecting = Future()
            threading.Thread(
                target=_connect,
                args=(self._connecting, settings | self.addresses.settings(KafkaAdminClient)),
                name="kafka-admin-connect",
                daemon=True,
            ).start()
        connecting = self._connecting
        try:
            return connecting.result(timeout_ms / 1000)
        except TimeoutError:
            places = ", ".join(settings["bootstrap_servers"])
            raise KafkaTimeoutError(f"no broker answers at {places}") from None
        finally:
            if connecting.done():
                self._connecting = None

    def close(self) -> None:
        """See `Library.close`. A client that is connecting is closed once it is connected."""
        connecting, self._connecting = self._connecting, None
        if connecting:
            connecting.add_done_callback(lambda done: done.exception() or done.result().close())


def _connect(connecting: Future[Any], settings: Mapping[str, Any]) -> None:
    try:
        client = KafkaAdminClient(
            **settings, bootstrap_timeout_ms=_DAY_MS, reconnect_backoff_max_ms=1_000
        )
    except Exception as error:
        connecting.set_exception(error)
    else:
        connecting.set_result(client)


class DocumentedProducer:
    """A producer behind `send`; see `Outgoing`.

    Records are sent in rounds: a round begins once everything of the last one is answered. The
    reason is that a producer that has been ended still delivers what it has; the library documents
    no way to prevent that. Records of later rounds are then never sent, so they can't overtake a
    record that failed.
    """

    never_waits = False  # `send` may wait for topics and for memory

    def __init__(self, producer: Any, answers: Answers) -> None:
        self._producer = producer
        self._answers = answers
        self._changed = threading.Condition()  # over the three below
        self._waiting: list[Entry] = []
        self._unanswered = 0
        self._ended = False
        threading.Thread(target=self._run, name="kafka-rounds", daemon=True).start()

    def know(self, topics: Iterable[str]) -> None:
        """See `Outgoing.know`."""
        for topic in topics:
            self._producer.partitions_for(topic)

    def put(self, entries: Sequence[Entry]) -> None:
        """See `Outgoing.put`."""
        with self._changed:
            self._waiting += entries
            self._changed.notify()

    def end(self) -> None:
        """See `Outgoing.end`."""
        with self._changed:
            self._ended = True
            self._waiting.clear()
            self._changed.notify()

    # --- on its own thread, which closes the producer at the end ---

    def _run(self) -> None:
        while entries := self._round():
            for entry in entries:
                if self._ended:
                    break
                self._send(entry)
        _close(self._producer)

    def _round(self) -> list[Entry]:
        """What to send next; nothing once the producer has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or (self._waiting and not self._unanswered))
            entries, self._waiting = self._waiting, []
            self._unanswered = len(entries)
            return entries

    def _send(self, entry: Entry) -> None:
        record = entry.record
        try:
            future = self._producer.send(
                record.topic, record.value, record.key, list(record.headers)
            )
        except Exception as error:
            self._failed(entry, error)
            return
        future.add_callback(partial(self._confirmed, entry))
        future.add_errback(partial(self._failed, entry))

    # --- on the library's thread, too ---

    def _confirmed(self, entry: Entry, answer: Any) -> None:
        self._answers.confirmed([entry], answer.topic, answer.partition, answer.offset)
        self._answered()

    def _failed(self, entry: Entry, error: Exception) -> None:
        # First, so that this can end before the next round is sent.
        self._answers.failed(entry, error)
        self._answered()

    def _answered(self) -> None:
        with self._changed:
            self._unanswered -= 1
            if not self._unanswered:
                self._changed.notify()


def _close(producer: Any) -> None:
    """Close a producer. While something is on its way, the library's `close` raises and ends
    nothing (3.0.12)."""
    error: Exception | None = None
    for _ in range(CLOSE_ATTEMPTS):
        try:
            producer.close(timeout=CLOSE_SECONDS)
            return
        except KafkaTimeoutError as still_on_its_way:
            error = still_on_its_way
        except Exception as unknown:
            error = unknown
            break
    logger.warning("A producer of kafka-python can't be closed: %r", error)


class DocumentedReader:
    """A consumer and its `poll`; see `Reader`."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self.consumer = KafkaConsumer(**settings)

    def close(self) -> None:
        """See `Reader.close`."""
        self.consumer.close(autocommit=False)

    def poll(self, timeout_ms: int, max_records: int) -> dict[Any, list[Record]]:
        """See `Reader.poll`."""
        try:
            polled = self.consumer.poll(timeout_ms, max_records=max_records)
        except Exception as error:
            if isinstance(error, KafkaError) and not isinstance(error, _UNPACKING):
                raise
            return self._damage(error)
        return {place: [_record(one) for one in records] for place, records in polled.items()}

    def _damage(self, error: Exception) -> dict[Any, list[Record]]:
        """The record that can't be unpacked. The library's `error` does not name it: so each
        partition is read alone, from this consumer's position."""
        flowing = self.consumer.assignment() - self.consumer.paused()
        offsets = {place: self.consumer.position(place) for place in sorted(flowing)}
        try:
            ends = self.consumer.end_offsets(list(offsets))
            offsets = {place: offset for place, offset in offsets.items() if offset < ends[place]}
            for place, offset in offsets.items():
                if (found := self._tried(place, offset)) is not None:
                    # Without the seek, the library's next poll spins for ever (3.0.12).
                    self.consumer.seek(place, offset + 1)
                    return {place: [damaged(place, offset, found)]}
        except KafkaError:  # the connection was lost meanwhile
            self._drop_what_was_fetched(offsets)
            raise
        self._drop_what_was_fetched(offsets)
        raise LogUnavailable(f"Kafka's answer can't be unpacked: {error!r}.") from error

    def _tried(self, place: TopicPartition, offset: int) -> Exception | None:
        """Why the record at this offset can't be unpacked; None if it can."""
        probe = KafkaConsumer(**{**self._settings, "group_id": None, "group_instance_id": None})
        try:
            probe.assign([place])
            probe.seek(place, offset)
            probe.poll(PROBE_MS, max_records=1)
        except Exception as error:
            if isinstance(error, KafkaError) and not isinstance(error, _UNPACKING):
                raise
            return error
        finally:
            probe.close(autocommit=False)
        return None

    def _drop_what_was_fetched(self, offsets: Mapping[Any, int]) -> None:
        """Fetch again: an answer was damaged on its way, and the library's next poll would spin on
        it for ever (3.0.12)."""
        for place, offset in offsets.items():
            self.consumer.seek(place, offset + 1)
        try:
            self.consumer.poll(0)  # drops what does not begin there
        finally:
            for place, offset in offsets.items():
                self.consumer.seek(place, offset)


def _record(found: Any) -> Record:
    headers = tuple((name, value or b"") for name, value in found.headers or ())
    return Record(
        found.topic,
        found.partition,
        found.offset,
        found.key,
        found.value,
        headers,
        found.timestamp,
    )
