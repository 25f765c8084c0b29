"""The key that signs what browsers keep for us: the setting, or one that is made once."""

from __future__ import annotations

import os
import secrets
from functools import cached_property
from pathlib import Path

FILE = "secret.key"


class SecretKey:
    """The key of this instance; several instances need the setting JOBQUEST_SECRET_KEY."""

    def __init__(self, setting: str | None, folder: Path) -> None:
        self._setting = setting
        self._file = folder / FILE

    @cached_property
    def value(self) -> bytes:
        """The key. Made at the first use, and kept in the data folder."""
        if self._setting:
            return self._setting.encode()
        return self._read() or self._make()

    def _read(self) -> bytes:
        try:
            return self._file.read_bytes().strip()
        except FileNotFoundError:
            return b""

    def _make(self) -> bytes:
        mine = self._file.with_name(f"{FILE}.{os.getpid()}.{secrets.token_hex(4)}")
        mine.touch(mode=0o600)
        mine.write_text(secrets.token_hex(32))
        try:
            os.link(mine, self._file)  # of several processes, the first one's stays
        except FileExistsError:
            pass
        finally:
            mine.unlink()
        return self._read()
