"""The tables of the last version without migrations, which called them layout 5."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = None


def _number(name: str, **more: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, nullable=False, **more)


def _string(name: str, length: int, **more: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.String(length), **more)


def _time(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger)


def upgrade() -> None:
    _create_events()
    _create_projections()
    _create_failures()
    _create_service()


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            primary_key=True,
            autoincrement=False,
        ),
        _string("id", 100, nullable=False),
        _string("outcome", 10, nullable=False),
        _string("topic", 249, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        _number("offset"),
        _string("type", 100),
        _string("user_id", 128),
        _number("time_ms"),
        _number("received_ms"),
        _string("caused_by", 100),
        sa.Column("body", sa.Text, nullable=False),
        sa.UniqueConstraint("id"),
    )
    op.create_index("events_by_user", "events", [sa.text("(seq / 100000)"), "user_id", "seq"])
    op.create_index("events_by_type", "events", ["type", "seq"])
    _create_partial_index("events_not_processed", "seq", "outcome != 'processed'")
    _create_partial_index("events_by_cause", "caused_by", "caused_by IS NOT NULL")


def _create_partial_index(name: str, column: str, condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, "events", [column], sqlite_where=where, postgresql_where=where)


def _create_projections() -> None:
    before = ["missions_started", "missions_completed", "missions_failed"]
    after = ["applications", "achievements", "challenges_completed", "learning_started"]
    after += ["learning_completed", "notebook_entries", "logins", "best_streak_days"]
    op.create_table(
        "user_stats",
        _string("user_id", 128, primary_key=True),
        _number("xp"),
        _number("level"),
        *map(_number, before),
        sa.Column("focus_minutes", sa.Float, nullable=False),
        *map(_number, after),
        _time("reported_total_xp"),
        _time("reported_ms"),
        _number("reported_level"),
        _number("event_count"),
        _time("last_seen_ms"),
        sqlite_with_rowid=False,
    )
    _create_users_table(
        "applications",
        "job_id",
        _string("company_name", 500),
        _string("position", 500),
        _string("status", 500),
        _time("applied_ms"),
        _time("updated_ms"),
    )
    _create_users_table(
        "notifications",
        "notification_id",
        _string("notification_type", 500),
        _string("title", 500),
        _string("message", 5000),
        _time("sent_ms"),
        _time("read_ms"),
    )
    _create_users_table(
        "achievements",
        "achievement_id",
        _string("achievement_name", 500),
        _number("xp_amount"),
        _time("unlocked_ms"),
    )
    _create_users_table(
        "challenges",
        "challenge_id",
        _string("title", 500),
        _string("description", 5000),
        _time("available_ms"),
        _time("completed_ms"),
    )
    _create_users_table(
        "learning",
        "resource_id",
        _string("title", 500),
        _string("resource_type", 500),
        sa.Column("progress", sa.Float, nullable=False),
        _time("started_ms"),
        _time("completed_ms"),
    )
    op.create_table(
        "minute_counts",
        _number("minute_ms", primary_key=True),
        _string("type", 100, primary_key=True),
        _number("count"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "daily_xp", _number("day_ms", primary_key=True), _number("xp"), sqlite_with_rowid=False
    )


def _create_users_table(name: str, key: str, *columns: sa.Column[Any]) -> None:
    op.create_table(
        name,
        _string("user_id", 128, primary_key=True),
        _string(key, 500, primary_key=True),
        *columns,
        sqlite_with_rowid=False,
    )


def _create_failures() -> None:
    op.create_table(
        "parked",
        _string("event_id", 100, primary_key=True),
        _string("identity", 64, nullable=False),
        _string("topic", 249, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        _number("offset"),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary),
        sa.Column("headers", sa.LargeBinary, nullable=False),
        _number("appended_ms"),
        _string("user_id", 128, nullable=False),
        _string("type", 100, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        _string("error_class", 200),
        sa.Column("path", sa.Text),
        _time("first_failed_ms"),
        _time("next_ms"),
    )
    op.create_index("ix_parked_next_ms", "parked", ["next_ms"])
    columns = ["topic", "partition", "key", "appended_ms", "offset"]
    op.create_index("parked_by_lane", "parked", columns)
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        _string("identity", 100, nullable=False),
        _string("topic", 249, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        _number("offset"),
        _number("appended_ms"),
        _string("event_id", 100, nullable=False),
        _string("type", 100),
        _string("user_id", 128),
        sa.Column("error", sa.Text, nullable=False),
        _string("error_class", 200, nullable=False),
        sa.Column("path", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        _number("first_failed_ms"),
        _number("died_ms"),
        sa.Column("key", sa.LargeBinary),
        sa.Column("value", sa.LargeBinary),
        sa.Column("headers", sa.LargeBinary, nullable=False),
        sa.Column("mended", sa.LargeBinary),
        _time("repeats_below"),
        sa.Column("redrives", sa.Integer, nullable=False),
        _string("state", 10, nullable=False),
        sa.Column("reason", sa.Text),
        sa.UniqueConstraint("identity", "topic", "partition", "offset"),
    )
    op.create_index("ix_dead_letters_event_id", "dead_letters", ["event_id"])
    op.create_index("ix_dead_letters_state", "dead_letters", ["state"])
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        _string("event_id", 100, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        _number("failed_ms"),
        sa.Column("error", sa.Text, nullable=False),
        _string("error_class", 200, nullable=False),
        sa.Column("path", sa.Text),
        _string("outcome", 10, nullable=False),
    )
    op.create_index("ix_attempts_event_id", "attempts", ["event_id"])


def _create_service() -> None:
    op.create_table(
        "positions",
        _string("identity", 64, primary_key=True),
        _string("topic", 249, primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True),
        _number("next"),
    )
    op.create_table(
        "outgoing",
        _string("id", 200, primary_key=True),
        _string("process", 100, nullable=False),
        _number("created_ms"),
        _string("topic", 249, nullable=False),
        sa.Column("key", sa.LargeBinary),
        sa.Column("value", sa.LargeBinary),
        sa.Column("headers", sa.LargeBinary, nullable=False),
    )
    op.create_index("outgoing_by_time", "outgoing", ["created_ms"])
    op.create_table(
        "minutes",
        _number("minute_ms", primary_key=True),
        *map(_number, ("processed", "retrying", "dead", "lag_messages")),
        sa.Column("lag_seconds", sa.Float, nullable=False),
    )
    op.create_table(
        "processes",
        _string("id", 100, primary_key=True),
        _string("host", 255, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        _number("heartbeat_ms"),
        sa.Column("consumer", sa.Text, nullable=False),
    )
    counter = op.create_table(
        "counter",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        _number("seq"),
        _string("epoch", 36, nullable=False),
    )
    layout = op.create_table(
        "layout", sa.Column("number", sa.Integer, primary_key=True, autoincrement=False)
    )
    service = op.create_table(
        "service",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        _string("wanted", 10),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("demo", sa.Integer, nullable=False),
    )
    op.bulk_insert(counter, [{"id": 1, "seq": 0, "epoch": str(uuid.uuid4())}])
    op.bulk_insert(layout, [{"number": 5}])
    op.bulk_insert(service, [{"id": 1, "wanted": None, "generation": 0, "demo": 0}])
