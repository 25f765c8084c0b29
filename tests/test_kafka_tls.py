"""What our TLS towards Kafka does otherwise than the library's own."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from pathlib import Path

import pytest

from jobquest.log.kafka.tls import with_context
from tests import certificates
from tests.service import wait_for


@pytest.mark.slow
def test_what_a_broker_says_before_it_closes_is_read_before_its_end(tmp_path: Path) -> None:
    if reason := certificates.why_not():
        pytest.skip(reason)
    authority = certificates.authority(tmp_path / "made", "a")
    broker = authority.issue("b", address="127.0.0.1")
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(broker.file, broker.key)
    ours = with_context({"security_protocol": "SSL", "ssl_cafile": str(authority.file)})
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer_and_close() -> None:
            with theirs.wrap_socket(listening.accept()[0], server_side=True) as accepted:
                accepted.recv(1)
                accepted.sendall(b"no")

        thread = threading.Thread(target=answer_and_close, daemon=True)
        thread.start()
        plain = socket.create_connection(listening.getsockname())
        with ours["ssl_context"].wrap_socket(plain, server_hostname="127.0.0.1") as connected:
            connected.sendall(b"?")
            thread.join(10)  # both are there now
            connected.setblocking(False)
            read: list[bytes] = []

            def has_read() -> bool:
                """As the library does when the socket is readable: as far as it can."""
                assert select.select([connected], [], [], 10)[0]
                try:
                    while True:
                        read.append(connected.recv(4096))
                        assert read[-1], "the end came with what was read"
                except ssl.SSLWantReadError:
                    return bool(read)

            wait_for(has_read, 10)
            assert read == [b"no"]
            assert select.select([connected], [], [], 10)[0]
            assert connected.recv(4096) == b""


def test_without_tls_no_setting_is_about_it() -> None:
    security = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
    assert with_context({**security, "ssl_check_hostname": True}) == security
    assert with_context({"ssl_check_hostname": True}) == {}
