"""Transactions of another client, as they come to our topics: committed, aborted, left open."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaProducer


@contextmanager
def transaction(
    bootstrap: str, topic: str, values: Sequence[bytes], key: bytes = b"k"
) -> Iterator[Any]:
    """A producer with an open transaction, in which these records lie in partition 0: commit it,
    abort it, or leave it open until the end."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=uuid.uuid4().hex)
    try:
        producer.init_transactions()
        producer.begin_transaction()
        for value in values:
            producer.send(topic, value, key, partition=0)
        producer.flush()
        yield producer
    finally:
        producer.close(timeout=5)


def commit(bootstrap: str, topic: str, values: Sequence[bytes], key: bytes = b"k") -> None:
    """Write records in a transaction: a marker follows them, which has an offset and no record."""
    with transaction(bootstrap, topic, values, key) as producer:
        producer.commit_transaction()


def abort(bootstrap: str, topic: str, values: Sequence[bytes], key: bytes = b"k") -> None:
    """Write records that do not count."""
    with transaction(bootstrap, topic, values, key) as producer:
        producer.abort_transaction()
