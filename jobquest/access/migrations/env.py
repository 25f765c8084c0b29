"""Alembic's entry: runs migrations on the connection that `schema.py` hands over."""

from __future__ import annotations

from alembic import context

from jobquest.access import tables
from jobquest.access.schema import VERSION_TABLE

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=tables.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():  # joins our transaction, which is already open
    context.run_migrations()
