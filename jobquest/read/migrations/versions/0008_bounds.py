"""Add the indexes for lists by time, topic and XP, and the table of forgotten letters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_index("events_by_place", "events", [sa.text("(seq / 20000)"), "topic", "time_ms"])
    op.create_index("user_stats_by_level", "user_stats", ["level"])
    closed = sa.text("state != 'open'")
    op.create_index(
        "dead_letters_closed",
        "dead_letters",
        ["died_ms"],
        sqlite_where=closed,
        postgresql_where=closed,
    )
    op.create_table(
        "forgotten_letters",
        sa.Column("identity", sa.String(100), primary_key=True),
        sa.Column("topic", sa.String(249), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("offset", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("event_id", sa.String(100), nullable=False, index=True),
        sa.Column("repeats_below", sa.BigInteger),
        sa.Column("died_ms", sa.BigInteger, nullable=False),
    )
