"""The service as its proxies show it: the public URL, and the headers of trusted proxies.

Called where the application is put together. Links, redirects and sockets come out right because
the request says what the browser has asked for: its scheme, its host and the prefix of its path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from werkzeug.middleware.proxy_fix import ProxyFix

from jobquest.config import Config

Environ = dict[str, Any]
Application = Callable[[Environ, Any], Iterable[bytes]]
ORIGINAL = "jobquest.origin"
"""In the environ: scheme and host as the request itself has them, such as `http://[::1]:5000`."""


def behind_proxies(application: Application, config: Config) -> Application:
    """`application` as it has to be called, given the proxies in front of it.

    Nobody else's `X-Forwarded-*` counts: each of so many proxies appends its own value.
    """
    trusted = config.trusted_proxies
    if config.public_url:
        application = _below(application, config.public_url.prefix, bool(trusted))
    if trusted:
        application = ProxyFix(application, x_for=trusted, x_proto=trusted, x_host=trusted)
    return application


def _below(application: Application, prefix: str, trusts: bool) -> Application:
    """Take the prefix off a path, if the proxy has left it there.

    A proxy that takes it off itself may say so by `X-Forwarded-Prefix`; then a path that begins
    with it once more is another one, which no route has.
    """

    def call(environ: Environ, start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        was_taken_off = trusts and "HTTP_X_FORWARDED_PREFIX" in environ
        if prefix and not was_taken_off and f"{path}/".startswith(f"{prefix}/"):
            environ["PATH_INFO"] = path[len(prefix) :] or "/"
        environ["SCRIPT_NAME"] = prefix
        return application(environ, start_response)

    return call
