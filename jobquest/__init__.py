"""JobQuest's event service.

`create_app` is imported when it is asked for: a further process of a rebuild needs a third of the
modules, and must not wait for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobquest.application import create_app
else:

    def __getattr__(name):  # mypy would believe that there is whatever is asked for
        if name != "create_app":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from jobquest.application import create_app

        return create_app

    def __dir__():
        return [*globals(), *__all__]


__all__ = ["create_app"]
