"""TLS towards the brokers: what the library would do with the same settings, but a broker's last
words are heard. Knows the standard library only.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any


def with_context(security: Mapping[str, Any]) -> dict[str, Any]:
    """The security settings with our own context in place of those that are about TLS."""
    own = {name: value for name, value in security.items() if not name.startswith("ssl_")}
    if own.get("security_protocol", "").endswith("SSL"):
        own["ssl_context"] = _Context({k: v for k, v in security.items() if k.startswith("ssl_")})
    return own


class _Context(ssl.SSLContext):
    """Reads the files at each connection: they may have been renewed."""

    def __new__(cls, settings: Mapping[str, Any]) -> _Context:
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        """See `ssl.SSLContext.wrap_socket`."""
        return _context(**self._settings).wrap_socket(*args, **options)


def _context(
    *,
    ssl_cafile: str | None = None,
    ssl_certfile: str | None = None,
    ssl_keyfile: str | None = None,
    ssl_password: str | None = None,
    ssl_check_hostname: bool = True,
) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.check_hostname = ssl_check_hostname
    made.sslsocket_class = _Socket
    if ssl_cafile:
        made.load_verify_locations(ssl_cafile)
    else:
        made.load_default_certs()
    if ssl_certfile:
        # A password always: without one, OpenSSL would ask for it on the terminal.
        made.load_cert_chain(ssl_certfile, ssl_keyfile, password=lambda: ssl_password or "")
    return made


class _Socket(ssl.SSLSocket):
    """Tells a reader of the end only if nothing came just before it. The library (3.0.12) reads as
    far as it can, and at an end drops what it has read: mostly the answer of a broker that refuses
    a password, because such a broker answers and closes."""

    _has_read = False

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """See `ssl.SSLSocket.recv`; it does not block."""
        had_read, self._has_read = self._has_read, False
        data = super().recv(buflen, flags)
        if had_read and not data:
            raise ssl.SSLWantReadError
        self._has_read = bool(data)
        return data
