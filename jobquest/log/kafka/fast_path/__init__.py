"""kafka-python through its insides: faster, and correct only on the versions that were tried.

`version.py` imports this package on those versions only. Private names of the library are used in
this package and nowhere else. These are all of them:

- a producer's: `_accumulator`, `_closed`, `_metadata`, `_partition`, `_sender`,
  `_unregister_cleanup`
- its thread's: `_client`; that one's: `_manager`, and this one's: `_conns`
- its accumulator's: `_appends_in_progress`, `_batches`, `_closed`, `_incomplete`, `_tp_lock`
- an outgoing batch's: `_record_futures`; its records': `_builder`, `_closed`, `_next_offset`;
  their builder's: `_batch_size`, `_buffer`, `_first_timestamp`, `_last_offset`, `_max_timestamp`,
  `_num_records`
- a consumer's: `_coordinator`, `_fetcher`; its fetcher's: `PartitionRecords`
- a fetched partition's: `_consume_aborted_transactions_up_to`, `_contains_abort_marker`,
  `_is_batch_aborted`, `_unpack_records`; a batch's in it: `_buffer`, `_pos`
- an admin client's: `_closed`

Without an underscore, but documented nowhere: what is imported from `kafka.consumer.fetcher`,
`kafka.partitioner`, `kafka.producer` and `kafka.record`, and the attributes of those classes.
"""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaTimeoutError

from jobquest.log.kafka.fast_path.producer import FastProducer
from jobquest.log.kafka.fast_path.unpacked import FastReader
from jobquest.log.kafka.library import Addresses, Answers


class FastLibrary:
    """See `Library`."""

    def __init__(self) -> None:
        self.addresses = Addresses()

    def producer(self, answers: Answers, **settings: Any) -> FastProducer:
        """See `Library.producer`."""
        return FastProducer(settings | self.addresses.settings(KafkaProducer), answers)

    def reader(self, **settings: Any) -> FastReader:
        """See `Library.reader`."""
        return FastReader(settings | self.addresses.settings(KafkaConsumer))

    def admin(self, timeout_ms: int, **settings: Any) -> Any:
        """See `Library.admin`."""
        settings |= self.addresses.settings(KafkaAdminClient)
        if len(settings["bootstrap_servers"]) > 1:
            try:
                return _Admin(**settings, bootstrap_timeout_ms=timeout_ms // 2)
            except KafkaTimeoutError:
                pass  # the library spends all its time on the first broker that hangs
        return _Admin(**settings, bootstrap_timeout_ms=timeout_ms)

    def close(self) -> None:
        """See `Library.close`. Nothing waits: a client that can't connect is closed at once."""


class _Admin(KafkaAdminClient):  # type: ignore[misc]
    """The library's own leaves a thread and four open files behind if it can't connect."""

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except Exception:
            self._closed = False
            self.close()
            raise
