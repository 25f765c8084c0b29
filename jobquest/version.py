"""The version of this code, by which an operator tells instances apart during a rolling upgrade.

Read by the runtime. The part behind the `+` comes from the code itself, so that two instances with
different code never show the same version, even if nobody has raised the number.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

RELEASE = "1.0.0"


@cache
def version() -> str:
    """The release and eight digits of the package's source, for example `1.0.0+3f9a61c2`."""
    package = Path(__file__).parent
    digest = sha256()
    for source in sorted(package.rglob("*.py")):
        digest.update(f"{source.relative_to(package)}\n".encode() + source.read_bytes())
    return f"{RELEASE}+{digest.hexdigest()[:8]}"
