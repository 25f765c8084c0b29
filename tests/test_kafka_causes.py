"""What is made of the library's errors: one line with the setting to look at."""

from __future__ import annotations

import logging
import ssl
import time

import pytest
from kafka.errors import KafkaConnectionError, SaslAuthenticationFailedError

from jobquest.log.kafka import causes
from jobquest.log.kafka.causes import Causes, explained

REFUSED = SaslAuthenticationFailedError("Authentication failed")
CUT_OFF = KafkaConnectionError("socket disconnected")
NOBODY = KafkaConnectionError("111 ECONNREFUSED")


def told(listener: Causes, *errors: Exception) -> float:
    """The library writes lines with these errors; when it began to."""
    began = time.monotonic()
    for error in errors:
        listener.handle(logging.makeLogRecord({"args": ("node 1", error)}))
    return began


def test_a_broker_that_refused_us_has_still_refused_us_when_it_only_closes_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listener = Causes()
    assert listener.since(told(listener, CUT_OFF)) is CUT_OFF
    assert listener.since(told(listener, REFUSED, CUT_OFF)) is REFUSED
    assert listener.since(told(listener, CUT_OFF)) is REFUSED
    assert listener.since(told(listener, NOBODY, CUT_OFF)) is NOBODY
    assert listener.since(told(listener)) is None
    monkeypatch.setattr(causes, "_REFUSED_SECONDS", 0.0)
    assert listener.since(told(listener, CUT_OFF)) is CUT_OFF


TLS = "Handshake failed: [SSL: {}] (_ssl.c:1016)"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (REFUSED, "Check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD."),
        (CUT_OFF, "KAFKA_SASL_PASSWORD, or the certificate KAFKA_SSL_CERTFILE, must be right."),
        (FileNotFoundError(2, "No such file"), "FileNotFoundError: [Errno 2] No such file. Check"),
        (ssl.SSLError(9, "[SSL] PEM lib (_ssl.c:3900)"), ": [SSL] PEM lib. Check the files KAFKA_"),
        (ssl.SSLError(116, "[X509: KEY_VALUES_MISMATCH] key values mismatch"), "the files KAFKA_S"),
        (KafkaConnectionError(ssl.SSLError(1, "[SSL: TLSV1_ALERT_UNKNOWN_CA]")), "KAFKA_SSL_CERTF"),
        (KafkaConnectionError(TLS.format("WRONG_VERSION_NUMBER")), "KAFKA_SECURITY_PROTOCOL must"),
    ],
)
def test_an_error_is_one_line_with_the_setting_to_look_at(error: Exception, says: str) -> None:
    line = explained(error, ["a:1"])
    assert line.startswith("Kafka does not answer at a:1: ")
    assert says in line
    assert "_ssl.c" not in line


def test_an_advertised_address_is_not_blamed_for_a_certificate() -> None:
    expired = KafkaConnectionError(TLS.format("CERTIFICATE_VERIFY_FAILED] certificate has expired"))
    assert "advertised.listeners" not in explained(expired, ["b:1"], advertised=True)
    assert "advertised.listeners" in explained(NOBODY, ["b:1"], advertised=True)
