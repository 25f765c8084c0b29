"""Why no connection to Kafka could be made, and which setting to look at.

kafka-python (3.0.12) raises only that it could not connect in time; what happened is in its log
lines. They are listened to here, and nothing else of the library is known.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from kafka.errors import KafkaError, KafkaTimeoutError

_LISTENER = (
    "If Kafka runs: KAFKA_SECURITY_PROTOCOL and KAFKA_SASL_MECHANISM must be those of its listener"
    " there"
)
_ADVICE = {  # by what an error's name or text has in it; what says most comes first
    "SaslAuthenticationFailed": "Check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
    "SaslMechanism": _LISTENER,
    "IllegalSaslState": _LISTENER,
    "DNS": "This machine does not know that name: check KAFKA_BROKER",
    "CERTIFICATE": "Check KAFKA_SSL_CAFILE, and that the certificate is for this address",
    "SSL": "KAFKA_SECURITY_PROTOCOL must be that of its listener there",
    "ECONNREFUSED": "Nothing listens there: start Kafka, or check KAFKA_BROKER",
    "disconnected": _LISTENER,
    "reset": _LISTENER,
}


class Causes(logging.Handler):
    """Remembers the errors that the library logged of its connections, the latest of each kind."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._latest: dict[str, tuple[float, Exception]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        for one in record.args if isinstance(record.args, tuple) else ():
            if isinstance(one, KafkaError | OSError) and not isinstance(one, KafkaTimeoutError):
                self._latest[_kind(one)] = time.monotonic(), one

    def since(self, began: float) -> Exception | None:
        """What says most of the errors since `began` (monotonic seconds)."""
        for kind in (*_ADVICE, ""):
            at, error = self._latest.get(kind, (0.0, None))
            if at >= began:
                return error
        return None


causes = Causes()  # one for the process, as the library's loggers are
logging.getLogger("kafka.net").addHandler(causes)


def explained(error: Exception, addresses: Sequence[str], *, advertised: bool = False) -> str:
    """The error of a connection to these addresses (host:port) in words, with what to look at.
    They are the configured ones, or those that the brokers have advertised."""
    what = _text(error)
    reason = f"Kafka does not answer at {', '.join(addresses)}: {what.rstrip('.')}."
    if advertised:
        return (
            f"{reason} Its brokers say that they are there: this machine must know and reach that"
            " address. Set advertised.listeners on the broker, or make the name known here."
        )
    kind = _kind(error)
    return f"{reason} {_ADVICE[kind]}." if kind else reason


def _text(error: Exception) -> str:
    name, text = type(error).__name__, str(error.args[0] if error.args else error)
    return text if name in text else f"{name}: {text}" if text else name


def _kind(error: Exception) -> str:
    """The word by which its advice is found; "" if there is none."""
    text = _text(error)
    return next((word for word in _ADVICE if word in text), "")
