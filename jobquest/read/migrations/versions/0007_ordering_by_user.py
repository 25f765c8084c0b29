"""Order parked events by user and offset, and store more about each failure: the part that failed,
a traceback, and the handlers that need not be called again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from jobquest.clock import now_ms

revision = "0007"
down_revision = "0006"

_KEY = ("topic", "partition", "user_id")


def upgrade() -> None:
    for name in ("parked", "attempts", "dead_letters"):
        op.add_column(name, sa.Column("part", sa.Text))
        op.add_column(name, sa.Column("trace", sa.Text))
    for name in ("parked", "dead_letters"):
        op.add_column(name, sa.Column("done", sa.Text))
    # An index of the key would refuse long keys: PostgreSQL allows 2,704 bytes.
    op.drop_index("parked_by_lane", "parked")
    with op.batch_alter_table("parked") as table:
        table.alter_column("key", nullable=True, existing_type=sa.LargeBinary)
    op.create_index("parked_by_key", "parked", [*_KEY, "offset"])
    waits = sa.text("next_ms IS NOT NULL")
    op.create_index(
        "parked_heads",
        "parked",
        list(_KEY),
        sqlite_where=waits,
        postgresql_where=waits,
    )
    # The first event of each user is the head now, and nobody else is.
    parked = sa.table("parked", *(sa.column(name) for name in (*_KEY, "offset", "next_ms")))
    earlier = parked.alias()
    same = [earlier.c[name] == parked.c[name] for name in _KEY]
    behind = sa.exists().where(*same, earlier.c.offset < parked.c.offset)
    op.execute(parked.update().where(behind).values(next_ms=None))
    is_new = sa.and_(~behind, parked.c.next_ms.is_(None))
    op.execute(parked.update().where(is_new).values(next_ms=now_ms()))
