"""Drop unused data: the layout's number, which the revision replaces, and service.demo."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.drop_table("layout")
    with op.batch_alter_table("service") as service:
        service.drop_column("demo")
