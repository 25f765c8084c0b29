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
    if config.kafka_ssl_cafile:
        try:
            context.load_verify_locations(config.kafka_ssl_cafile)
        except OSError as error:  # ssl.SSLError is one
            raise _unusable("KAFKA_SSL_CAFILE", config.kafka_ssl_cafile, error) from None
    if config.kafka_ssl_certfile:
        try:
            context.load_cert_chain(
                config.kafka_ssl_certfile, config.kafka_ssl_keyfile, password=lambda: ""
            )
        except OSError as error:
            files = " with ".join(
                filter(None, [config.kafka_ssl_certfile, config.kafka_ssl_keyfile])
            )
            raise _unusable("KAFKA_SSL_CERTFILE", files, error) from None
    elif config.kafka_ssl_keyfile:
        raise SettingsError("KAFKA_SSL_KEYFILE is useless alone; set KAFKA_SSL_CERTFILE too.")


def _unusable(variable: str, files: str, error: OSError) -> SettingsError:
    reason = "no PEM, or not a pair" if isinstance(error, ssl.SSLError) else error.strerror
    return SettingsError(f"{variable}: {files} can't be used ({reason}); name another file.")
