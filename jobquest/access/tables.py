"""The tables of the credentials. No secret is in them, only digests: see `keys.py`, `sessions.py`.

On SQLite they are in a file of their own, `access.db`; on PostgreSQL beside the read side's. A
rebuild never touches them. To change one, see `schema.py`. Times are Unix milliseconds.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, Text

metadata = MetaData()

state = Table(  # one row
    "access_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # Another one after each change of what a credential allows: processes look at it each second.
    Column("generation", BigInteger, nullable=False),
)

keys = Table(
    "access_keys",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256 of the key
    Column("scopes", String(100), nullable=False),  # separated by blanks
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
    Column("used_ms", BigInteger),  # to the minute
)

operators = Table(
    "access_operators",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("password", Text, nullable=False),  # its argon2id hash
    Column("role", String(10), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

sessions = Table(
    "access_sessions",
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 of the cookie's value
    Column("name", String(200), nullable=False, index=True),
    # NULL: the role of the operator with this name, as it is now. Otherwise what the provider said.
    Column("role", String(10)),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False, index=True),
    Column("used_ms", BigInteger, nullable=False),  # to the minute
    Column("address", String(45), nullable=False),
    Column("agent", String(200), nullable=False),
)

tickets = Table(  # each is valid once
    "access_tickets",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("caller", Text, nullable=False),  # as JSON
    Column("expires_ms", BigInteger, nullable=False, index=True),
)
