"""Who sends a request, and what they may do. Knows nothing of credentials and of HTTP."""

from __future__ import annotations

import re

import msgspec

WRITE, READ, OPERATE = "events:write", "events:read", "operate"
OWN = "own"  # to read what belongs to oneself
MANAGE = "manage"  # keys, operators, sessions and the audit trail
KEY_SCOPES = (WRITE, READ, OPERATE)
"""What an API key can be given."""

ROLES = {
    "viewer": frozenset({READ}),
    "operator": frozenset({READ, WRITE, OPERATE, MANAGE}),
}
"""What operators of each role may do."""


# What the audit trail calls those without a name of their own, and what it puts before a name.
_OF_TRAIL = re.compile(r"(local|proxy|unknown|nobody)|(key|user|cli):.*", re.IGNORECASE)


def is_of_trail(name: str) -> bool:
    """Whether the audit trail itself uses this name: no operator can have it."""
    return _OF_TRAIL.fullmatch(name) is not None


class Caller(msgspec.Struct, frozen=True, gc=False):
    """The sender of a request.

    `kind` is local, proxy, user, key or operator. `name` is the user's id, the key's name or the
    operator's name. `credential` names what can be revoked (`key:3`), and `expires` is its end in
    Unix seconds; None if it has none.
    """

    kind: str
    name: str
    scopes: frozenset[str]
    credential: str = ""
    expires: float | None = None

    def may(self, scope: str) -> bool:
        """Whether the caller has this scope."""
        return scope in self.scopes

    @property
    def user(self) -> str | None:
        """The user for whom alone the caller speaks; None if there is no such limit."""
        return self.name if self.kind == "user" else None


_EVERYTHING = frozenset({WRITE, READ, OPERATE, MANAGE})
LOCAL = Caller("local", "local", _EVERYTHING)
"""Everybody, while no credentials are configured."""

PROXY = Caller("proxy", "proxy", _EVERYTHING)
"""Everybody whom the proxy in front lets pass."""


def of_user(user_id: str, credential: str, expires: float | None) -> Caller:
    """A user of the front end, by their token."""
    return Caller("user", user_id, frozenset({WRITE, OWN}), credential, expires)
