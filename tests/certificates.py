"""Certificates for the tests, made by the system's openssl."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

EXPIRED = -1  # days that a certificate is valid; openssl keeps this number for tests


def why_not() -> str | None:
    """Why no certificates can be made here; None if they can."""
    return None if shutil.which("openssl") else "no openssl on this machine"


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in a file each, and both in one as Kafka wants them."""

    file: Path
    key: Path

    @property
    def both(self) -> Path:
        made = self.file.with_suffix(".both.pem")
        made.write_text(self.key.read_text() + self.file.read_text())
        return made

    def encrypted_key(self, password: str) -> Path:
        """Another file of the key, which this password opens."""
        made = self.key.with_suffix(".encrypted.pem")
        _openssl("pkcs8", "-topk8", "-in", self.key, "-out", made, "-passout", f"pass:{password}")
        return made


class Authority(Certificate):
    """A certificate that issues others, in the same folder."""

    def issue(self, name: str, *, address: str = "", days: int = 1) -> Certificate:
        """A certificate of somebody with this name, at this IP address."""
        made, request = _new(self.file.parent), self.file.with_suffix(".request")
        more = ["-addext", f"subjectAltName=IP:{address}"] if address else []
        _openssl("req", *_subject(name, made), "-out", request, *more)
        signed = ("-CA", self.file, "-CAkey", self.key, "-CAcreateserial", "-days", days)
        copied = ("-in", request, "-out", made.file, "-copy_extensions", "copy")
        _openssl("x509", "-req", *signed, *copied)
        return made


def authority(folder: Path, name: str) -> Authority:
    """A new authority; its files are in the folder."""
    folder.mkdir(exist_ok=True)
    made = _new(folder)
    _openssl("req", "-x509", *_subject(name, made), "-out", made.file)
    return Authority(made.file, made.key)


def _new(folder: Path) -> Certificate:
    number = len(list(folder.iterdir()))  # several may have one name
    return Certificate(folder / f"{number}.pem", folder / f"{number}.key.pem")


def _subject(name: str, made: Certificate) -> list[object]:
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    return ["-subj", f"/CN={name}", *curve, "-keyout", made.key]


def _openssl(*arguments: object) -> None:
    command = ["openssl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
