"""Rename dead letters' tables and columns to the names in the code."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.alter_column("dead_letters", "mended", new_column_name="edited")
    op.drop_index("ix_forgotten_letters_event_id", "forgotten_letters")
    op.rename_table("forgotten_letters", "forgotten_dead_letters")
    op.create_index("ix_forgotten_dead_letters_event_id", "forgotten_dead_letters", ["event_id"])
    if op.get_context().dialect.name == "postgresql":  # SQLite's has no name
        op.execute("ALTER INDEX forgotten_letters_pkey RENAME TO forgotten_dead_letters_pkey")
