"""One valid sample of each event type, as a client would send it."""

from __future__ import annotations

from typing import Any

from jobquest.events import CATALOGUE

SAMPLES: dict[str, dict[str, Any]] = {name: row.example for name, row in CATALOGUE.items()}
TYPES = list(CATALOGUE)
