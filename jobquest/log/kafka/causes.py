"""Why a connection to Kafka could not be made, and which setting to check.

kafka-python (3.0.12) only raises that it could not connect in time; the cause is in its log lines.
This module listens to those lines, keeps passwords out of them, and knows nothing else of the
library.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence

from kafka.errors import KafkaError, KafkaTimeoutError

_LISTENER = (
    "If Kafka runs there, KAFKA_SECURITY_PROTOCOL and KAFKA_SASL_MECHANISM must match its listener"
)
_REFUSED = (
    f"{_LISTENER}, and KAFKA_SASL_PASSWORD, or the certificate KAFKA_SSL_CERTFILE, must be right"
)
_DATES = (
    "The certificate of the broker, or of its authority, must be valid now: renew it there, or"
    " correct this machine's clock"
)
_NAMES = (
    "The broker's certificate is for other names: KAFKA_BROKER, and advertised.listeners on the"
    " broker, must use one of those"
)
_AUTHORITY = "KAFKA_SSL_CAFILE must have the authority that signed the broker's certificate"
_FILES = "Check the files KAFKA_SSL_CAFILE, KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE"
_ADVICE = {  # by a part of an error's name or text; the most specific come first
    "SaslAuthenticationFailed": "Check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
    "SaslMechanism": _LISTENER,
    "IllegalSaslState": _LISTENER,
    "DNS": "This machine can't resolve that name: check KAFKA_BROKER",
    "_ALERT_": (
        "The broker wants a certificate that it trusts and that is valid now: check"
        " KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE"
    ),
    "has expired": _DATES,
    "not yet valid": _DATES,
    "is not valid for": _NAMES,
    "issuer certificate": _AUTHORITY,
    "self-signed": _AUTHORITY,
    "X509": _FILES,
    "PEM": _FILES,
    "CERTIFICATE": "Check KAFKA_SSL_CAFILE",
    "FileNotFoundError": _FILES,
    "PermissionError": _FILES,
    "SSL": "KAFKA_SECURITY_PROTOCOL must match its listener there",
    "ECONNREFUSED": "Nothing listens there: start Kafka, or check KAFKA_BROKER",
    "disconnected": _REFUSED,
    "reset": _REFUSED,
}
_VAGUE = ("disconnected", "reset", "")  # kinds, "" is any other
_OF_THE_ADDRESS = ("DNS", "ECONNREFUSED", *_VAGUE)
_REFUSALS = ("SaslAuthenticationFailed", "_ALERT_")
# A broker that refuses us closes the connection with its answer. If the library sees the end first,
# it drops the answer: in plain text it often does.
_REFUSED_SECONDS = 60.0
_PLACE = re.compile(r" \(_ssl\.c:\d+\)")
# At DEBUG, these write settings and requests, and with them our password.
_TALKATIVE = ("kafka.admin.client", "kafka.net.connection", "kafka.protocol.parser")


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
        """The most specific error since `began` (monotonic seconds). If that says little, a refusal
        from shortly before does."""
        found = self._of((*_ADVICE, ""), began)
        if found and _kind(found) in _VAGUE:
            return self._of(_REFUSALS, began - _REFUSED_SECONDS) or found
        return found

    def _of(self, kinds: Sequence[str], began: float) -> Exception | None:
        known = (self._latest[kind] for kind in kinds if kind in self._latest)
        return next((error for at, error in known if at >= began), None)


causes = Causes()  # one for the process, because the library's loggers are global too
logging.getLogger("kafka.net").addHandler(causes)
for _name in _TALKATIVE:
    logging.getLogger(_name).addFilter(lambda record: record.levelno > logging.DEBUG)


def explained(error: Exception, addresses: Sequence[str], *, advertised: bool = False) -> str:
    """A connection error in words, with the setting to check. `addresses` (host:port) are the
    configured ones, or if `advertised`, those that the brokers have advertised."""
    cause, kind = _text(error), _kind(error)
    some = "one or more of " if len(addresses) > 1 else ""  # which ones, the library does not say
    reason = f"Kafka does not answer at {some}{', '.join(addresses)}: {cause.rstrip('.')}."
    if advertised and kind in _OF_THE_ADDRESS:
        return (
            f"{reason} Its brokers advertise that address, so this machine must be able to resolve"
            " and reach it. Set advertised.listeners on the broker, or make the name known here."
        )
    return f"{reason} {_ADVICE[kind]}." if kind else reason


def _text(error: Exception) -> str:
    name = type(error).__name__
    # An OSError's first argument is its number.
    text = str(error.args[0] if error.args and not isinstance(error, OSError) else error)
    text = _PLACE.sub("", text)
    return text if name in text else f"{name}: {text}" if text else name


def _kind(error: Exception) -> str:
    """The key of its advice; "" if there is none."""
    text = _text(error)
    return next((word for word in _ADVICE if word in text), "")
