"""Let PostgreSQL number changes by a sequence, so that several processes can write at once.

The table `counter` goes away with its number: a process of the version before, which still locks
it, stops writing and says that the tables are newer.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
expands = False


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        # First, so that nobody takes a number between the look at the last one and the drop.
        op.execute("LOCK TABLE counter IN ACCESS EXCLUSIVE MODE")
    op.create_table(
        "epoch",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(36), nullable=False),
        sa.Column("revision", sa.String(32)),
        sa.Column("works_from", sa.String(32)),
        sa.Column("is_outdated", sa.Boolean),
    )
    op.execute("INSERT INTO epoch (id, name) SELECT id, epoch FROM counter")
    if op.get_context().dialect.name == "postgresql":
        op.execute("CREATE SEQUENCE change_seq")
        op.execute("SELECT setval('change_seq', seq) FROM counter WHERE seq > 0")
    op.drop_table("counter")
