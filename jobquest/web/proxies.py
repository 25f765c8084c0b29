"""The proxies in front: the public URL, and the headers of those that are trusted.

Called by the entrance before anything else. Links, redirects and sockets come out right because
the request then names what the browser has asked for: its scheme, its host and the path's prefix.
"""

from __future__ import annotations

from typing import Any

from werkzeug.middleware.proxy_fix import ProxyFix

from jobquest.config import Config

Environ = dict[str, Any]
ORIGINAL = "jobquest.origin"
"""In the environ: scheme and host as the request itself has them, such as `http://[::1]:5000`."""


class Proxies:
    """The proxies that the settings name. Nobody else's `X-Forwarded-*` counts: each of so many
    proxies appends its own value."""

    def __init__(self, config: Config) -> None:
        trusted = config.trusted_proxies
        self._are_trusted = bool(trusted)
        # It edits the environ, then calls an application: here none.
        self._fix = ProxyFix(_no_application, x_for=trusted, x_proto=trusted, x_host=trusted)
        self._prefix = config.public_url.prefix if config.public_url else None

    def apply(self, environ: Environ) -> None:
        """Have the environ name the scheme, host, client and path that the browser has used."""
        if self._are_trusted:
            self._fix(environ, _no_application)
        if self._prefix is not None:
            self._take_off_prefix(environ, self._prefix)

    def _take_off_prefix(self, environ: Environ, prefix: str) -> None:
        """Take the prefix off the path, if the proxy has left it there.

        A proxy that takes it off itself may say so by `X-Forwarded-Prefix`. A path that begins
        with the prefix is then a path that no route has.
        """
        path = environ.get("PATH_INFO", "")
        was_taken_off = self._are_trusted and "HTTP_X_FORWARDED_PREFIX" in environ
        if prefix and not was_taken_off and f"{path}/".startswith(f"{prefix}/"):
            environ["PATH_INFO"] = path[len(prefix) :] or "/"
        environ["SCRIPT_NAME"] = prefix


def _no_application(*_: Any) -> Any:
    return ()
