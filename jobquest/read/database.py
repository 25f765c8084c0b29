"""A database: connections, transactions and their errors, for both dialects.

SQLAlchemy's engine is here. The read side's tables are in it, or those of the credentials, or both:
`Tables` is what it must know of them. `tables.py` defines what the read side stores, `schema.py`
upgrades its tables.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, Table, create_engine, text
from sqlalchemy import event as engine_events
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import PoolProxiedConnection

from jobquest.errors import ReadSideUnavailable, ReadSideUnusable, UpgradeWaits
from jobquest.read import postgres, schema
from jobquest.read.database_errors import (
    has_no_connection_left,
    is_damage,
    is_forbidden,
    is_infrastructure,
    is_infrastructure_of_driver,
    is_locked,
    is_missing_table,
    is_refused,
)

BUSY_SECONDS = 5.0
# A PostgreSQL that drops packets is noticed within these times; libpq would wait for minutes.
_CONNECT_SECONDS, _UNANSWERED_MS = 3, 10_000
# SQLite's pages: cached by an idle connection, cached by the one that writes, and in the
# write-ahead log before they are copied into the file.
_CACHE_KB, _WRITER_CACHE_KB, _CHECKPOINT_PAGES = 2_000, 16_000, 10_000
_T = TypeVar("_T")
UPGRADE_LOCK = 7317001  # PostgreSQL's advisory locks have numbers instead of names
_LOCKED_MS = 5_000  # that an upgrade waits for a table, while all others wait for the upgrade
_IN_TRANSACTION = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    " AND state = 'idle in transaction' ORDER BY xact_start"
)
_KEPT = 8  # idle connections that a pool keeps open
_PING_AFTER_SECONDS = 1.0  # without use: whether the server is still there
_GIVEN_BACK = "given_back"
_FEWER = (
    "Lower JOBQUEST_DATABASE_POOL, or raise PostgreSQL's max_connections: on Kafka each instance"
    " opens up to (JOBQUEST_WORKERS + 1) × JOBQUEST_DATABASE_POOL connections."
)


class Tables(Protocol):
    """A set of tables with a revision of its own: the module that creates and upgrades them."""

    NAME: str  # "the read side", in errors
    REVISION: str  # that this version needs
    REPAIR: str  # what to do if their file is damaged
    FILE_MODE: int  # of their file, less what the umask takes away

    def is_current(self, connection: Connection) -> bool:
        """Whether they have that revision already; nobody is waited for."""

    def bring_up(self, connection: Connection, *, may_upgrade: bool, where: str) -> str | None:
        """Create or upgrade them in the caller's transaction. Returns the revision before."""

    def differences(self, connection: Connection) -> list[str]:
        """A line for each difference between them and their models."""


class Database:
    """The database behind `url`. Safe to build before a fork: it connects at the first use.

    The first use upgrades SQLite's tables, and PostgreSQL's only if `upgrades` is true. (Tables
    that do not exist yet are created in both cases.)
    """

    def __init__(
        self,
        url: str,
        *,
        upgrades: bool = False,
        pool: int = 16,
        tables: Tables = schema,
        outlives_power_cuts: bool = False,
    ) -> None:
        """`pool`: the most connections at a time; a thread that needs another one waits. With
        `outlives_power_cuts`, each transaction in a file waits for the disk."""
        self.engine = _engine(url, pool, outlives_power_cuts)
        self._tables = tables
        self._upgrades = upgrades or self.is_file
        self._ready = False
        # SQLite has one writer at a time, and a waiting writer polls for its turn: of fifty, some
        # never get it. So the threads of this process queue for this lock instead.
        self._write_lock = threading.Lock() if self.engine.dialect.name == "sqlite" else None
        self._kept: PoolProxiedConnection | None = None  # for `select`
        self._selecting = threading.Lock()  # held while `_kept` is in use
        self._impatient: PoolProxiedConnection | None = None  # for `select_at_once`

    def beside(self, tables: Tables) -> Database:
        """The same database, by the same connections, for another set of tables."""
        other = copy(self)
        other._tables, other._ready = tables, False
        return other

    @property
    def is_file(self) -> bool:
        """Whether it is a file (SQLite) instead of a server that may have to be waited for."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read with. Raises ReadSideUnavailable."""
        with self._unavailable():
            self._prepare()
            with self.engine.connect() as connection:
                yield connection

    @contextmanager
    def asking(self) -> Iterator[Connection]:
        """A connection for single SELECTs: on a server each costs one round trip, because none is
        in a transaction. Raises ReadSideUnavailable."""
        with self._unavailable():
            self._prepare()
            with self.engine.connect() as connection:
                if not self.is_file:
                    connection.execution_options(isolation_level="AUTOCOMMIT")
                yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction; on SQLite it holds the write lock from its start on."""
        with self._unavailable():
            self._prepare()
            with self._begin() as connection:
                yield connection

    @contextmanager
    def applying(self) -> Iterator[Connection]:
        """A connection for a transaction that `Statements` begins and commits: psycopg's own way
        costs two more round trips in a pipeline. On SQLite the same as `writing`."""
        if self.is_file:
            with self.writing() as connection:
                yield connection
            return
        with self.asking() as connection:
            try:
                yield connection
            finally:
                _roll_back(connection)

    def select(self, statement: str, parameters: tuple[Any, ...]) -> Sequence[Sequence[Any]]:
        """The rows of one SELECT, run by the driver alone on a connection that is kept for it,
        without a transaction: a tenth of the cost of `reading`. One thread at a time; others wait.
        Raises ReadSideUnavailable."""
        with self._selecting, self._unavailable():
            self._prepare()
            rows = self._select(statement, parameters)
            if self.is_file and self._impatient is None:
                self._impatient = self._opened_impatient()
            return rows

    def select_at_once(
        self, statement: str, parameters: tuple[Any, ...]
    ) -> Sequence[Sequence[Any]] | None:
        """The same for a thread that must not wait: None if it would have to. An earlier `select`
        has opened its connection, because that may take a while. (SQLite itself waits up to 10 s
        for a process that hangs just while it opens the file's write-ahead log.)"""
        connection = self._impatient
        if connection is None:
            return None
        try:
            cursor = connection.cursor()
            cursor.execute(statement, parameters)
            return cursor.fetchall()
        except sqlite3.Error:  # `select` will raise what is wrong
            self._impatient = None
            connection.invalidate()
            return None

    def _opened_impatient(self) -> PoolProxiedConnection:
        connection = self._raw_connection()
        connection.cursor().execute("PRAGMA busy_timeout = 0")
        return connection

    def _select(self, statement: str, parameters: tuple[Any, ...]) -> Sequence[Sequence[Any]]:
        dialect, was_kept = self.engine.dialect, self._kept is not None
        connection = self._kept or self._keep()
        try:
            cursor = connection.cursor()
            cursor.execute(statement, parameters)
            return cursor.fetchall()
        except dialect.loaded_dbapi.Error as error:
            is_lost = dialect.is_disconnect(error, connection.driver_connection, None)
            self._drop_kept()
            if not (was_kept and is_lost):
                if is_lost or is_infrastructure_of_driver(error):
                    raise ReadSideUnavailable(self._explained(error)) from error
                raise
        return self._select(statement, parameters)  # the server may have restarted meanwhile

    def _keep(self) -> PoolProxiedConnection:
        kept = self._raw_connection()
        if self.engine.dialect.name == "postgresql":  # SQLite's connections always autocommit
            driver: Any = kept.driver_connection
            driver.autocommit = True
        self._kept = kept
        return kept

    def _raw_connection(self) -> PoolProxiedConnection:
        try:
            return self.engine.raw_connection()
        except self.engine.dialect.loaded_dbapi.Error as error:
            raise ReadSideUnavailable(self._explained(error)) from error

    def _drop_kept(self) -> None:
        if self._kept:
            self._kept.invalidate()
            self._kept = None

    def close(self) -> None:
        """Close every connection; except one that a thread is using. The next use opens new ones,
        and looks at the tables again: the file may be another one by then."""
        if self._impatient:
            self._impatient.invalidate()
            self._impatient = None
        if self._selecting.acquire(blocking=False):
            try:
                self._drop_kept()
            finally:
                self._selecting.release()
        self.engine.dispose()
        self._ready = False

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        with (
            self._holding_write_lock(),
            self.engine.connect().execution_options(write=True) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _unavailable(self) -> Iterator[None]:
        """Raise ReadSideUnavailable if the database is away. Errors that our code or an event's
        content caused pass unchanged."""
        try:
            yield
        except DBAPIError as error:
            if not is_infrastructure(error):
                self._ready = self._ready and not is_missing_table(error)  # check the tables again
                raise
            raise ReadSideUnavailable(self._explained(error)) from error
        except OSError as error:
            raise ReadSideUnavailable(self._explained(error)) from error
        except PoolTimeout as error:
            line = f"{self._name} is busy: no connection is free. If that lasts, raise"
            raise ReadSideUnavailable(f"{line} JOBQUEST_DATABASE_POOL.") from error

    def _explained(self, error: Exception) -> str:
        orig = getattr(error, "orig", None) or error
        line = self._line(" ".join(str(orig).split()).rstrip("."), is_damage(orig))
        return f"{line} {_FEWER}" if has_no_connection_left(orig) else line

    def _line(self, cause: str, damaged: bool = False) -> str:
        """One line: what is wrong, where, and what to do, if that is known."""
        where = self._where()
        if damaged:
            return (
                f"{self._name} is damaged: {cause} ({where}). Stop the service, move that file"
                f" away with its -wal and -shm, {self._tables.REPAIR}"
            )
        return f"{self._name} is not available: {cause} ({where})."

    @property
    def _name(self) -> str:
        return self._tables.NAME[0].upper() + self._tables.NAME[1:]

    def _where(self) -> str:
        url = self.engine.url
        sqlite_file = url.database if self.is_file else None
        return sqlite_file or url.set(query={}).render_as_string(hide_password=True)

    @contextmanager
    def _holding_write_lock(self) -> Iterator[None]:
        if self._write_lock and not self._write_lock.acquire(timeout=BUSY_SECONDS * 2):
            raise ReadSideUnavailable(self._line("database is locked"))
        try:
            yield
        finally:
            if self._write_lock:
                self._write_lock.release()

    def refuse_unusable(self) -> None:
        """Raise ReadSideUnusable if the database can be reached but can't hold the read side."""
        if self.is_file:
            return
        try:
            with self._unavailable(), self.engine.connect():
                pass
        except ReadSideUnusable:
            raise
        except ReadSideUnavailable:
            pass  # the service waits for it; each new connection checks again
        finally:
            self.close()

    def upgrade(self) -> tuple[str | None, str]:
        """Upgrade the tables to this version's revision. Returns the revision before (None: there
        were no tables) and now. Several processes may do it at once. Raises ReadSideUnavailable,
        UpgradeWaits."""
        with self._unavailable():
            found = self._bring_up(may_upgrade=True)
            return found, max(found or "", self._tables.REVISION)

    def differences(self) -> list[str]:
        """A line for each difference between the tables and the models. Raises
        ReadSideUnavailable."""
        with self._unavailable(), self.engine.connect() as connection:
            return self._tables.differences(connection)

    def _prepare(self) -> None:
        """Make sure, once per process, that this version can work with the tables."""
        if not self._ready:
            if not self._is_current():
                self._bring_up(may_upgrade=self._upgrades)
            self._ready = True

    def _is_current(self) -> bool:
        """Whether the tables have our revision already. Nobody waits for it: with a database far
        away, a dozen processes would need several seconds to look one after the other."""
        if self.is_file and not Path(self.engine.url.database or "").exists():
            return False
        with self.engine.connect() as connection:
            return self._tables.is_current(connection)

    def _bring_up(self, *, may_upgrade: bool) -> str | None:
        if self.engine.url.database and self.is_file:
            file = Path(self.engine.url.database)
            file.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # SQLite gives its -wal and -shm the same mode
                file.touch(self._tables.FILE_MODE, exist_ok=False)
        with self._begin() as connection:
            if not self.is_file:  # SQLite's transaction holds the write lock
                connection.execute(text(f"SELECT pg_advisory_xact_lock({UPGRADE_LOCK})"))
                connection.execute(text(f"SET LOCAL lock_timeout = {_LOCKED_MS}"))
            try:
                where = self._where()
                return self._tables.bring_up(connection, may_upgrade=may_upgrade, where=where)
            except DBAPIError as error:
                if is_locked(error):
                    raise UpgradeWaits(self._locked()) from error
                if not is_refused(error):
                    raise
                raise ReadSideUnavailable(self._refused(error)) from error

    def _locked(self) -> str:
        """Who holds the tables: sessions whose transaction began before."""
        with self.engine.connect() as connection:
            pids = connection.execute(text(_IN_TRANSACTION)).scalars().all()
        held = f"the sessions {', '.join(map(str, pids))} of" if pids else "another session of"
        return (
            f"The upgrade waits: {held} PostgreSQL hold locks on the tables, and their processes"
            " may be frozen. Stop these, or end the sessions: SELECT pg_terminate_backend(pid)"
            f" ({self._where()})."
        )

    def _refused(self, error: DBAPIError) -> str:
        cause = " ".join(str(error.orig).split())
        line = f"The tables of {self._tables.NAME} can't be created or upgraded: {cause}"
        if is_forbidden(error):
            return (
                f"{line} ({self._where()}). Allow the role to do that: it has to own them, and"
                f" GRANT CREATE ON SCHEMA public TO {self.engine.url.username}."
            )
        return f"{line} ({self._where()}). Drop or rename what is in the way, and upgrade again."


def _engine(url: str, pool: int, outlives_power_cuts: bool) -> Engine:
    bounds = {"pool_size": min(pool, _KEPT), "max_overflow": max(0, pool - _KEPT)}
    if not url.startswith("sqlite"):
        return _postgres_engine(url, bounds)
    arguments = {"timeout": BUSY_SECONDS, "check_same_thread": False}
    engine = create_engine(url, connect_args=arguments, hide_parameters=True, **bounds)

    @engine_events.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we begin transactions ourselves, see below
        connection.execute("PRAGMA journal_mode=WAL")
        # Positions are in the same file as the effects, and the log has all events: after a power
        # cut, lost transactions are only read again. So there is no fsync for each of them.
        connection.execute(f"PRAGMA synchronous={'FULL' if outlives_power_cuts else 'NORMAL'}")
        # By default SQLite copies its log into the file after as many pages as one large batch
        # changes, each time with a sync of the disk.
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")

    @engine_events.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A deferred transaction that becomes a writer fails at once if another one writes; an
        # immediate one waits.
        writes = connection.get_execution_options().get("write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
        if writes:  # so that a large batch's pages are not written twice
            connection.exec_driver_sql(f"PRAGMA cache_size=-{_WRITER_CACHE_KB}")

    @engine_events.listens_for(engine, "checkin")
    def _given_back(connection: Any, _record: Any) -> None:
        if connection:  # None: it was lost
            connection.execute(f"PRAGMA cache_size=-{_CACHE_KB}")

    return engine


def _postgres_engine(url: str, bounds: dict[str, int]) -> Engine:
    arguments = {
        "connect_timeout": _CONNECT_SECONDS,
        "tcp_user_timeout": _UNANSWERED_MS,
        "client_encoding": postgres.CLIENT_ENCODING,
    }
    # The latest connection first: it has the statements prepared, and needs no ping.
    engine = create_engine(
        url, connect_args=arguments, pool_use_lifo=True, hide_parameters=True, **bounds
    )

    @engine_events.listens_for(engine, "do_connect")
    def _connect(dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        connection = dialect.connect(*arguments, **options)
        postgres.open_session(connection)
        return connection

    @engine_events.listens_for(engine, "checkin")
    def _given_back(_connection: Any, record: Any) -> None:
        record.info[_GIVEN_BACK] = time.monotonic()

    @engine_events.listens_for(engine, "checkout")
    def _taken(connection: Any, record: Any, _proxy: Any) -> None:
        # A ping is a round trip, and a connection that was just used is rarely lost.
        idle = time.monotonic() - record.info.get(_GIVEN_BACK, float("inf"))
        if idle > _PING_AFTER_SECONDS and not _answers(engine.dialect, connection):
            raise DisconnectionError

    return engine


def _roll_back(connection: Connection) -> None:
    """End a transaction that the driver itself began; after its commit this does nothing."""
    if not connection.invalidated:
        driver: Any = connection.connection.driver_connection
        try:
            driver.rollback()
        except connection.dialect.loaded_dbapi.Error as error:
            connection.invalidate(error)


def _answers(dialect: Any, connection: Any) -> bool:
    try:
        return bool(dialect.do_ping(connection))
    except dialect.loaded_dbapi.Error:
        return False


def padded(values: Iterable[_T]) -> list[_T]:
    """Values for an IN, padded with the last one to a length that is a power of two.

    Each length is another statement, which SQLite's and PostgreSQL's connections keep prepared:
    with 2,000 values that costs a hundred kilobytes for every length that ever occurred.
    """
    found = list(values)
    room = 1 << (len(found) - 1).bit_length() if found else 0
    return found + found[-1:] * (room - len(found))


def inserting(dialect: str, table: Table) -> Any:
    """An INSERT that supports ON CONFLICT, in that dialect."""
    if dialect == "sqlite":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # here, so that only its users wait for it

    return postgresql.insert(table)


@cache
def replacing(dialect: str, table: Table) -> Any:
    """An INSERT that overwrites the row of the same key. Built once, so compiled once."""
    statement = inserting(dialect, table)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={c.name: statement.excluded[c.name] for c in table.columns if not c.primary_key},
    )
