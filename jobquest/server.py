"""Runs the application under gunicorn: threads, a clean stop. Called by `python app.py` only.

Settings are checked and the port is bound before any worker starts, so that an error is one line on
the terminal and not a worker that dies again and again.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import platform
import re
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

from jobquest import create_app, listeners, open_files
from jobquest.access.caller import LOCAL, PROXY
from jobquest.addresses import in_url
from jobquest.collector import collect_seldom
from jobquest.config import Config, load
from jobquest.errors import AccessUnavailable, JobQuestError, SettingsError
from jobquest.log_lines import Lines, Seldom, finish, write_behind
from jobquest.runtime import Runtime

logger = logging.getLogger(__name__)

REQUEST_THREADS = 64
TRIED_GUNICORN = "27.0."  # `worker.py`, which uses gunicorn's insides, was tried with it
MAX_CONNECTIONS = 16_384  # of one worker, beside its viewers
GRACEFUL_SECONDS = 4  # for a worker's last requests and `Runtime.stop`; then it is killed
LAST_LINES_SECONDS = 0.2  # a worker waits that long only if nobody reads its lines
REQUEST_SECONDS = 1  # a worker that ends waits for its requests, and maybe one second more
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# No such address here, or no IPv6 at all.
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3  # glibc's malloc.h
OWN_PAGES_BYTES = 256 * 1024
_WHO = {
    LOCAL: "Open: whoever can use this machine may do everything, until there is a credential.",
    PROXY: "Open: the proxy in front authenticates, and whoever else reaches this address may do"
    " everything.",
    None: "Protected: everybody needs a key, a token or a sign-in.",
}
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class OneLine(logging.Formatter):
    """Writes a message's lines, each behind the same prefix; the format must end with the message.

    Control characters of a line are written as escapes, so that the text of an event or an error
    can't pass for a line of ours. Tracebacks keep their lines.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the library's name)
        lines = record.msg.lines if isinstance(record.msg, Lines) else [record.message]
        if not "".join(lines).isprintable():  # nearly all are, and it is much faster to ask
            lines = [_CONTROL.sub(lambda found: ascii(found[0])[1:-1], line) for line in lines]
        record.message = ""
        prefix = super().formatMessage(record)
        return prefix + f"\n{prefix}".join(lines)


def main() -> None:
    """Serve until a signal stops it. A wrong setting ends it with one line and code 2."""
    signal.signal(signal.SIGTERM, _end)  # until the server has its own
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(LOG_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("kafka").setLevel(logging.WARNING)
    # It warns of each of its steps that takes 0.1 s, which is usual on a busy machine.
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)
    open_files.raise_limit()
    _share_heaps()
    collect_seldom()
    try:
        config = load()
        app = create_app()  # reports what is wrong, handlers included, once
        who = _refuse_unusable(app.extensions["jobquest"])
        serve = _gunicorn()  # imported first: clients wait from the moment that the port is open
        listening = _listen(config)
    except JobQuestError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    host, port = listening.getsockname()[:2]
    _say_where(config, who, host, port)
    if serve is None:
        print("gunicorn does not run here: this is Flask's own server.", flush=True)
        listening.close()
        handler.addFilter(Seldom("kafka"))
        create_app().run(host, port, threaded=True)
        return
    serve(listening, config)


def _share_heaps() -> None:
    """Let all threads share two heaps.

    By default glibc makes eight for each CPU, and free memory in one is useless to another: with a
    hundred threads, memory grew during ten minutes of faults; with two heaps it did not. Only one
    thread runs Python at a time, so sharing costs no time (16 clients: ratio 1.00 over 24 pairs).
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
        # Larger blocks go back to the system at once. By default this bound grows to 32 MB, and
        # answers of 2 MB stay in the heaps, in pieces (a hundred: 542 MB; with it, 369 and 383).
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, OWN_PAGES_BYTES)


def _end(_number: int, _frame: Any) -> None:
    sys.exit(0)


def _refuse_unusable(runtime: Runtime) -> str:
    """Raise JobQuestError if the service must not start; otherwise, the line about who is let in.
    No connection stays open: the server forks, and a file's connections must not be shared."""
    runtime.database.refuse_unusable()
    try:
        runtime.access.refuse_open_doors()
        return _WHO[runtime.access.everybody()]
    except AccessUnavailable as error:
        return str(error)
    finally:
        runtime.access.close()
        runtime.database.close()


def _say_where(config: Config, who: str, host: str, port: int) -> None:
    kind = "Apache Kafka" if config.kafka_broker else "the embedded event log"
    url = f"http://{in_url(host)}:{port}/"
    print(f"JobQuest events on {url} with {kind}; Ctrl-C stops.", flush=True)
    print(who, flush=True)
    if given := config.without_broker():
        logger.warning(
            "The log is embedded, because KAFKA_BROKER is not set; these are: %s.", ", ".join(given)
        )


def _listen(config: Config) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((config.host, config.port))
        listening.listen(listeners.BACKLOG)
    except OSError as error:
        where = f"{in_url(config.host)}:{config.port} ({error.strerror})"
        if error.errno in _NO_SUCH_ADDRESS:
            raise SettingsError(
                f"HOST={config.host}: can't listen on {where}; this machine does not have that"
                " address, set HOST=127.0.0.1."
            ) from None
        raise SettingsError(
            f"PORT={config.port}: can't listen on {where};"
            " stop what listens there, or set another PORT."
        ) from None
    return listening


def worker_class(version: str) -> str:
    """The worker for a version of gunicorn: ours, or gunicorn's own with a line that says so."""
    if version.startswith(TRIED_GUNICORN) and hasattr(select, "epoll"):
        return "jobquest.worker.Worker"
    logger.warning(
        "gunicorn %s on %s: its own worker serves, which slow clients can block;"
        " JobQuest's was tried with gunicorn %sx on Linux.",
        version,
        sys.platform,
        TRIED_GUNICORN,
    )
    return "gthread"


def _connections(config: Config) -> int:
    """How many connections a worker keeps beside its viewers: fewer if it may open few files."""
    files = open_files.for_clients()
    # gunicorn's own worker needs more than its threads.
    return max(2 * REQUEST_THREADS, min(MAX_CONNECTIONS, files - _viewers(config)))


def _viewers(config: Config) -> int:
    """How many viewers a worker may have, with a line if these are fewer than wanted."""
    most = open_files.for_viewers(config.max_sockets)
    if most < config.max_sockets:
        logger.warning(
            "JOBQUEST_MAX_SOCKETS=%d: a process may have only %d live viewers, because it may open"
            " only %d files; raise that limit (ulimit -n), or set fewer.",
            config.max_sockets,
            most,
            open_files.for_clients() + open_files.SPARE,
        )
    return most


def _gunicorn() -> Callable[[socket.socket, Config], None] | None:
    """What serves; None if gunicorn does not run here."""
    os.environ.pop("WEB_CONCURRENCY", None)  # its import fails if that is no number
    try:
        import gunicorn
        from gunicorn import arbiter  # noqa: F401
        from gunicorn.app.base import BaseApplication
    except ImportError:
        return None

    class Server(BaseApplication):  # type: ignore[misc]
        def __init__(self, settings: Mapping[str, Any]) -> None:
            self._settings = settings
            super().__init__()

        def load_config(self) -> None:
            for name, value in self._settings.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return create_app()

    def serve(listening: socket.socket, config: Config) -> None:
        for name in ("GUNICORN_FD", "SCRIPT_NAME"):  # gunicorn would use them as settings
            os.environ.pop(name, None)
        os.register_at_fork(after_in_parent=_let_sigterm_in)
        Server(_gunicorn_settings(gunicorn.__version__, listening, config)).run()

    return serve


def _gunicorn_settings(version: str, listening: socket.socket, config: Config) -> dict[str, Any]:
    sockets = listeners.sockets_for(config.worker_count, listening)
    return {
        "bind": [f"fd://{one.detach()}" for one in sockets],  # the server closes them
        "workers": config.worker_count + config.has_consumer_process,
        "worker_class": worker_class(version),
        "threads": REQUEST_THREADS,
        "worker_connections": _connections(config),
        "graceful_timeout": GRACEFUL_SECONDS,
        "keepalive": 5,
        # Our setting says which proxies are trusted; gunicorn itself trusts no header.
        "forwarded_allow_ips": "",
        "forwarder_headers": "",
        "secure_scheme_headers": {},
        "header_map": "drop",
        "http_parser": "python",  # this one was tried, whatever else is installed
        "control_socket_disable": True,
        "loglevel": "warning",
        "when_ready": listeners.fix_count,
        "pre_fork": _before_fork(config.has_consumer_process),
        "post_fork": listeners.take_socket,
        "post_worker_init": _start_worker,
        "worker_exit": _stop_worker,
    }


def _before_fork(has_consumer: bool) -> Callable[[Any, Any], None]:
    def prepare(server: Any, worker: Any) -> None:
        listeners.choose_socket(server, worker, has_consumer=has_consumer)
        # Until the worker has handlers of its own, it would lose the signal, and be killed later.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    return prepare


def _let_sigterm_in() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _start_worker(worker: Any) -> None:
    """In the worker, after the fork: only now may threads and connections begin."""
    _let_sigterm_in()
    runtime = worker.app.callable.extensions["jobquest"]
    worker.cfg.set("graceful_timeout", REQUEST_SECONDS)  # in this process; the server keeps 4
    root = logging.getLogger()
    worker.log_listener = write_behind(root, root.handlers[0])
    root.handlers[0].addFilter(Seldom("kafka"))  # a library in trouble says so all the time
    runtime.start(consumes=worker.is_consumer or not runtime.config.has_consumer_process)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, _then(runtime.begin_stop, signal.getsignal(number)))


def _then(first: Callable[[], None], handler: Any) -> Callable[[int, Any], None]:
    """A signal handler that calls `first`, then does what the server does.

    Without it the server waits for every open WebSocket until its time is over, then kills.
    """
    handled: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if not handled:  # a second signal may interrupt the first one's work, which holds locks
            handled.append(number)
            first()
        if callable(handler):
            handler(number, frame)

    return handle


def _stop_worker(_server: Any, worker: Any) -> None:
    if worker.pid != os.getpid():  # the server also calls this for a worker that has ended
        return
    worker.app.callable.extensions["jobquest"].stop()
    if answer_last := getattr(worker, "answer_last", None):  # our own worker's
        answer_last()
    if listener := getattr(worker, "log_listener", None):
        finish(listener, LAST_LINES_SECONDS)
    if worker.booted and not worker.alive:  # it ends as wanted: no failure's exit code is lost
        logging.shutdown()
        # The interpreter would join the server's threads first, and any of them may wait for a
        # silent client. `stop` has done everything else.
        os._exit(0)
