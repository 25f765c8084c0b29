"""Why a connection to Kafka could not be made, and which setting to check.

kafka-python (3.0.12) only raises that it could not connect in time; the cause is in its log lines.
This module listens to those lines, and knows nothing else of the library.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from kafka.errors import KafkaError, KafkaTimeoutError

_LISTENER = (
    "If Kafka runs there, KAFKA_SECURITY_PROTOCOL and KAFKA_SASL_MECHANISM must match its listener"
)
_ADVICE = {  # by a part of an error's name or text; the most specific come first
    "SaslAuthenticationFailed": "Check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
    "SaslMechanism": _LISTENER,
    "IllegalSaslState": _LISTENER,
    "DNS": "This machine can't resolve that name: check KAFKA_BROKER",
    "CERTIFICATE": "Check KAFKA_SSL_CAFILE, and that the certificate is for this address",
    "SSL": "KAFKA_SECURITY_PROTOCOL must match its listener there",
    "ECONNREFUSED": "Nothing listens there: start Kafka, or check KAFKA_BROKER",
    "disconnected": _LISTENER,
    "reset": _LISTENER,
}


class Causes(logging.Handler):
    """Remembers the connection errors that the library has logged: the latest of each kind."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._latest: dict[str, tuple[float, Exception]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, KafkaTimeoutError):
                continue
            if isinstance(argument, KafkaError | OSError):
                self._latest[_kind(argument)] = time.monotonic(), argument

    def since(self, began: float) -> Exception | None:
        """The most specific error since `began` (monotonic seconds)."""
        for kind in (*_ADVICE, ""):
            at, error = self._latest.get(kind, (0.0, None))
            if at >= began:
                return error
        return None


causes = Causes()  # one for the process, because the library's loggers are global too
logging.getLogger("kafka.net").addHandler(causes)


def explained(error: Exception, addresses: Sequence[str], *, advertised: bool = False) -> str:
    """A connection error in words, with the setting to check. `addresses` (host:port) are the
    configured ones, or if `advertised`, those that the brokers have advertised."""
    cause = _text(error)
    some = "one or more of " if len(addresses) > 1 else ""  # which ones, the library does not say
    reason = f"Kafka does not answer at {some}{', '.join(addresses)}: {cause.rstrip('.')}."
    if advertised:
        return (
            f"{reason} Its brokers advertise that address, so this machine must be able to resolve"
            " and reach it. Set advertised.listeners on the broker, or make the name known here."
        )
    kind = _kind(error)
    return f"{reason} {_ADVICE[kind]}." if kind else reason


def _text(error: Exception) -> str:
    name, text = type(error).__name__, str(error.args[0] if error.args else error)
    return text if name in text else f"{name}: {text}" if text else name


def _kind(error: Exception) -> str:
    """The key of its advice; "" if there is none."""
    text = _text(error)
    return next((word for word in _ADVICE if word in text), "")
