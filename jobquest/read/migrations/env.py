"""Alembic's entry: runs migrations on the connection that `schema.py` hands over."""

from __future__ import annotations

from alembic import context

from jobquest.read import tables

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=tables.metadata, render_as_batch=True)
with context.begin_transaction():  # joins our transaction, which is already open
    context.run_migrations()
