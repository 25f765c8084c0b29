"""The read side's tables. The log is enough to recreate derived tables, but not operational ones.

To change a table, see `schema.py`. Times are Unix milliseconds. A column's scalar default is also
the value in a new row of a projection.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)

metadata = MetaData()
SHADOW_PREFIX = "rebuilt_"  # of what a rebuild creates, until it replaces the live tables
SEQ_BUCKET = 100_000  # changes; a user's events are looked up in one such bucket after the other
_SEQ_BUCKET_OF = f"seq / {SEQ_BUCKET}"
SEQ_BUCKET_OF = literal_column(_SEQ_BUCKET_OF, Integer)  # exactly as in the index that it uses
PLACE_BUCKET = 20_000  # the same for a topic or a time, which have many events in each bucket
_PLACE_BUCKET_OF = f"seq / {PLACE_BUCKET}"
PLACE_BUCKET_OF = literal_column(_PLACE_BUCKET_OF, Integer)


def count_column(name: str) -> Column[int]:
    """A number that only grows, from 0 on."""
    return Column(name, BigInteger, nullable=False, default=0)


def time_column(name: str) -> Column[int]:
    """A time in Unix milliseconds, or NULL."""
    return Column(name, BigInteger)


def _failure(*, required: bool) -> list[Column[str]]:
    """The columns that store a `failures.Failure`."""
    return [
        Column("error", Text, nullable=not required),
        Column("error_class", String(200), nullable=not required),
        Column("path", Text),
        Column("part", Text),  # the handler or projection that failed
        Column("trace", Text),
    ]


# --- derived ---

events = Table(
    "events",
    metadata,
    # The number of the row's last change. On SQLite it is the rowid, so it needs no extra index.
    Column(
        "seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False
    ),
    Column("id", String(100), nullable=False),
    Column("outcome", String(10), nullable=False),  # processed | retrying | dead
    Column("topic", String(249), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("type", String(100)),
    Column("user_id", String(128)),
    Column("time_ms", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("caused_by", String(100)),  # for our own events: the event that caused it
    Column("body", Text, nullable=False),  # the event as JSON
    UniqueConstraint("id"),
    # By bucket first: rows written at the same time are close together, however many users there
    # are. With the user first, a batch would change one page of the index for each user.
    Index("events_by_user", text(f"({_SEQ_BUCKET_OF})"), "user_id", "seq"),
    Index("events_by_place", text(f"({_PLACE_BUCKET_OF})"), "topic", "time_ms"),
    Index("events_by_type", "type", "seq"),
    Index(
        "events_not_processed",
        "seq",
        sqlite_where=text("outcome != 'processed'"),
        postgresql_where=text("outcome != 'processed'"),
    ),
    Index(
        "events_by_cause",
        "caused_by",
        sqlite_where=text("caused_by IS NOT NULL"),
        postgresql_where=text("caused_by IS NOT NULL"),
    ),
)

# --- operational ---

positions = Table(
    "positions",
    metadata,
    Column("identity", String(64), primary_key=True),  # of the topic: a recreated one has another
    Column("topic", String(249), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next", BigInteger, nullable=False),
)

parked = Table(  # events that wait for another try, see parking.py
    "parked",
    metadata,
    Column("event_id", String(100), primary_key=True),
    Column("identity", String(64), nullable=False),
    Column("topic", String(249), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", LargeBinary, nullable=False),
    Column("appended_ms", BigInteger, nullable=False),
    Column("user_id", String(128), nullable=False),
    Column("type", String(100), nullable=False),
    Column("attempts", Integer, nullable=False),
    *_failure(required=False),
    Column("first_failed_ms", BigInteger),
    Column("next_ms", BigInteger, index=True),  # NULL: waits behind the head of its ordering key
    Column("done", Text),  # the handlers that have succeeded, a JSON list of their names
    Index("parked_by_key", "topic", "partition", "user_id", "offset"),
    Index(
        "parked_heads",
        "topic",
        "partition",
        "user_id",
        sqlite_where=text("next_ms IS NOT NULL"),
        postgresql_where=text("next_ms IS NOT NULL"),
    ),
)

dead_letters = Table(  # see dead_letters.py
    "dead_letters",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("identity", String(100), nullable=False),
    Column("topic", String(249), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("appended_ms", BigInteger, nullable=False),
    Column("event_id", String(100), nullable=False, index=True),
    Column("type", String(100)),
    Column("user_id", String(128)),
    *_failure(required=True),
    Column("attempts", Integer, nullable=False),
    Column("first_failed_ms", BigInteger, nullable=False),
    Column("died_ms", BigInteger, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", LargeBinary, nullable=False),
    Column("edited", LargeBinary),  # the value that is redriven instead
    # For an event that waited: repeats of it before this offset arrived meanwhile and were dropped.
    Column("repeats_below", BigInteger),
    Column("redrives", Integer, nullable=False),  # how often it was redriven before this death
    Column("done", Text),  # the handlers that have succeeded, a JSON list of their names
    Column("state", String(10), nullable=False, index=True),  # open | redriven | discarded
    Column("reason", Text),  # why it was discarded
    UniqueConstraint("identity", "topic", "partition", "offset"),
    Index(
        "dead_letters_closed",
        "died_ms",
        sqlite_where=text("state != 'open'"),
        postgresql_where=text("state != 'open'"),
    ),
)

# What remains of closed dead letters that are no longer kept: a rebuild needs it, so that their
# records do not count.
forgotten_dead_letters = Table(
    "forgotten_dead_letters",
    metadata,
    Column("identity", String(100), primary_key=True),
    Column("topic", String(249), primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("event_id", String(100), nullable=False, index=True),
    Column("repeats_below", BigInteger),
    Column("died_ms", BigInteger, nullable=False),
)

outgoing = Table(  # our own records that wait for the log: follow-ups, dead letters, retries
    "outgoing",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("process", String(100), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("topic", String(249), nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", LargeBinary, nullable=False),
    Index("outgoing_by_time", "created_ms"),
)

attempts = Table(  # each failed try of an event, see history.py
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("event_id", String(100), nullable=False, index=True),
    Column("number", Integer, nullable=False),  # which try it was; starts again after a redrive
    Column("failed_ms", BigInteger, nullable=False),
    *_failure(required=True),
    Column("outcome", String(10), nullable=False),  # retrying | dead
)

minutes = Table(  # what the consumer did in each minute of its own clock, see history.py
    "minutes",
    metadata,
    Column("minute_ms", BigInteger, primary_key=True),
    count_column("processed"),
    count_column("retrying"),
    count_column("dead"),
    count_column("lag_messages"),  # the largest in this minute
    Column("lag_seconds", Float, nullable=False, default=0.0),
)

epoch = Table(  # one row
    "epoch",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # Another one after each rebuild: numbers of changes from before mean something else then.
    Column("name", String(36), nullable=False),
    # The oldest version that can work with the tables of `revision`, by its own revision.
    Column("revision", String(32)),
    Column("works_from", String(32)),
    # A migration has left out what only past events tell: the next rebuild adds it.
    Column("is_outdated", Boolean),
)
Sequence("change_seq", metadata=metadata)  # on PostgreSQL, see numbers.py

service = Table(  # one row: what the operator wants of the consumer
    "service",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("wanted", String(10)),  # running | stopped; NULL: not set yet
    Column("generation", Integer, nullable=False),  # how often it was set
)

processes = Table(
    "processes",
    metadata,
    Column("id", String(100), primary_key=True),  # also says where its pid is valid
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("heartbeat_ms", BigInteger, nullable=False),  # by the database's clock
    Column("consumer", Text, nullable=False),  # its snapshot as JSON
)
