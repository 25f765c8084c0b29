"""Checks that the things named by the settings are usable: folders, database URL, certificates.

Called once, before anything starts. A problem becomes one line that names the variable; found only
later, it would mean a service that runs but never works.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from jobquest.config import Config
from jobquest.errors import SettingsError
from jobquest.read.database_url import sqlite_file_of


def check(config: Config) -> None:
    """Check them, and create the folders. Raises SettingsError."""
    _make_folder("JOBQUEST_DATA_DIR", config.data_dir)
    if config.database_url:
        try:
            file = sqlite_file_of(config.database_url)
        except ValueError as error:
            raise SettingsError(f"DATABASE_URL: {error}.") from None
        if file:
            _make_folder("DATABASE_URL", file.parent)
            if file.is_dir():
                raise SettingsError(f"DATABASE_URL: {file} is a folder; add the file's name.")
    _check_certificates(config)
    if config.jwt_public_key:
        # The import takes a tenth of a second, and few services need it.
        from jobquest.access.public_keys import read_pem

        read_pem(config.jwt_public_key)


def _make_folder(variable: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise SettingsError(f"{variable}: {folder} is not a folder; name another.") from None
    except OSError as error:
        raise SettingsError(
            f"{variable}: the folder {folder} can't be created ({error.strerror}); name another."
        ) from None
    effective = os.access in os.supports_effective_ids
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        raise SettingsError(
            f"{variable}: nothing can be written to {folder}; name another, or change its rights."
        )


def _check_certificates(config: Config) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority, own = config.kafka_ssl_cafile, config.kafka_ssl_certfile
    key, password = config.kafka_ssl_keyfile, config.kafka_ssl_password
    if key and not own:
        raise SettingsError("KAFKA_SSL_KEYFILE is useless alone; set KAFKA_SSL_CERTFILE too.")
    _check_readable("KAFKA_SSL_CAFILE", authority)
    _check_readable("KAFKA_SSL_CERTFILE", own)
    _check_readable("KAFKA_SSL_KEYFILE", key)
    if authority:
        try:
            context.load_verify_locations(authority)
        except ssl.SSLError:
            raise _unusable("KAFKA_SSL_CAFILE", authority, "no PEM") from None
    if own:
        try:
            context.load_cert_chain(own, key, password=lambda: password or "")
        except ssl.SSLError as error:
            _refuse_password(key or own, password, error)
            files = " with ".join(filter(None, [own, key]))
            raise _unusable("KAFKA_SSL_CERTFILE", files, "no PEM, or not a pair") from None


def _check_readable(variable: str, file: str | None) -> None:
    try:
        if file:
            Path(file).read_bytes()
    except OSError as error:
        raise _unusable(variable, str(file), str(error.strerror)) from None


def _refuse_password(key: str, password: str | None, error: ssl.SSLError) -> None:
    """Raise SettingsError if the key is encrypted, and not with this password."""
    if b"ENCRYPTED" in Path(key).read_bytes() and error.reason != "KEY_VALUES_MISMATCH":
        what = "does not open" if password else "is not set, and must open"
        raise SettingsError(f"KAFKA_SSL_PASSWORD {what} the encrypted key in {key}.") from None


def _unusable(variable: str, files: str, reason: str) -> SettingsError:
    return SettingsError(f"{variable}: {files} can't be used ({reason}); name another file.")
