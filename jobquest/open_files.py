"""How many files this process may open: each client's connection is one."""

from __future__ import annotations

MOST = 65_536
SPARE = 256  # for everything but clients' connections


def raise_limit() -> None:
    """Allow more open files: the usual 1,024 are too few for idle connections and viewers, and a
    server that can't accept a connection ends."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


def for_clients() -> int:
    """How many connections of clients this process may have."""
    try:
        import resource
    except ImportError:  # Windows
        return MOST
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (MOST if files == resource.RLIM_INFINITY else files) - SPARE


def for_viewers(wanted: int) -> int:
    """How many viewers it may have: at most three quarters of its connections, so that requests
    have some."""
    return max(1, min(wanted, for_clients() * 3 // 4))
