"""kafka-python by its insides: quicker, and right only on the versions that were tried.

`library.py` imports this package on those versions alone. Names that the library keeps to itself
are used in this package and nowhere else. These are all of them:

- a producer's: `_accumulator`, `_closed`, `_metadata`, `_partition`, `_sender`,
  `_unregister_cleanup`
- its thread's: `_client`; that one's: `_manager`, and this one's: `_conns`
- its accumulator's: `_appends_in_progress`, `_batches`, `_closed`, `_incomplete`, `_tp_lock`
- a batch's on its way out: `_record_futures`; its records': `_builder`, `_closed`, `_next_offset`;
  their builder's: `_batch_size`, `_buffer`, `_first_timestamp`, `_last_offset`, `_max_timestamp`,
  `_num_records`
- a consumer's: `_coordinator`, `_fetcher`; its fetcher's: `PartitionRecords`
- what a fetch got of a partition: `_consume_aborted_transactions_up_to`, `_contains_abort_marker`,
  `_is_batch_aborted`, `_unpack_records`; a batch's in it: `_buffer`, `_pos`
- an admin client's: `_closed`

Without an underscore, but documented nowhere: what is imported from `kafka.consumer.fetcher`,
`kafka.partitioner`, `kafka.producer` and `kafka.record`, and the attributes of those classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient

from jobquest.log.kafka.fast_path.accumulate import Waiting, accumulate
from jobquest.log.kafka.fast_path.selector import LazySelector
from jobquest.log.kafka.fast_path.unpacked import FastReader
from jobquest.log.kafka.library import Addresses, Answers, Entry

_ANSWER_MS = 1_000.0


class FastLibrary:
    """See `Library`."""

    def __init__(self) -> None:
        self.addresses = Addresses()

    def producer(self, answers: Answers, **settings: Any) -> FastProducer:
        """See `Library.producer`."""
        settings |= self.addresses.settings(KafkaProducer)
        producer = KafkaProducer(**settings, selector=LazySelector)
        producer._accumulator._batches = Waiting()  # there is nothing in it yet
        client = producer._sender._client
        client.connection_delay = partial(_delay_ms, client, client.connection_delay)
        return FastProducer(producer, answers)

    def reader(self, **settings: Any) -> FastReader:
        """See `Library.reader`."""
        return FastReader(settings | self.addresses.settings(KafkaConsumer))

    def admin(self, timeout_ms: int, **settings: Any) -> Any:
        """See `Library.admin`."""
        settings |= self.addresses.settings(KafkaAdminClient)
        return _Admin(**settings, bootstrap_timeout_ms=timeout_ms)

    def close(self) -> None:
        """See `Library.close`. One that can't connect is given back at once."""


class FastProducer:
    """A producer that takes many records at once; see `Outgoing`."""

    never_waits = True

    def __init__(self, producer: Any, answers: Answers) -> None:
        self._producer = producer
        self._answers = answers

    def know(self, topics: Iterable[str]) -> None:
        """See `Outgoing.know`."""
        for topic in topics:
            self._producer._metadata.add_topic(topic)  # so that one answer tells about all
        for topic in topics:
            self._producer.partitions_for(topic)

    def put(self, entries: Sequence[Entry]) -> None:
        """See `Outgoing.put`."""
        accumulate(self._producer, entries, self._answers)

    def end(self) -> None:
        """See `Outgoing.end`. The library's own `close` raises while anything is on its way, and
        ends nothing; its finalizers would silence the library's log."""
        self._producer._unregister_cleanup()
        self._producer._closed = True
        self._producer._sender.force_close()


def _delay_ms(client: Any, delay: Callable[[Any], float], node: Any) -> float:
    """For how long its thread need not look whether it may send to `node`. The library says 0 for a
    connection that waits for an answer, and its thread asks all the while, a thousand times for
    each answer. The answer wakes it."""
    connection = client._manager._conns.get(node)
    is_waiting = connection is not None and connection.connected
    return _ANSWER_MS if is_waiting else delay(node)


class _Admin(KafkaAdminClient):  # type: ignore[misc]
    """The library's own leaves a thread and four open files behind if it can't connect."""

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except Exception:
            self._closed = False
            self.close()
            raise
