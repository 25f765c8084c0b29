"""The names and values of the environment and a `.env` file, before they are interpreted.

A file that can't be read, or a name that looks like a setting and is none, raises a SettingsError
of one line.
"""

from __future__ import annotations

import codecs
import difflib
import io
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from jobquest.errors import SettingsError

_OURS, _KAFKA = "JOBQUEST_", "KAFKA_"
# Kubernetes (and Docker's old links) set these in every container if there is a service named
# jobquest, jobquest-events or kafka: they are its address, not settings.
_INJECTED = re.compile(
    r"(JOBQUEST|KAFKA)_([A-Z0-9_]+_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
# What other clients of Kafka call our settings.
_OTHER_NAMES = {
    "KAFKA_BOOTSTRAP_SERVER": "KAFKA_BROKER",
    "KAFKA_BOOTSTRAP_SERVERS": "KAFKA_BROKER",
    "KAFKA_BROKER_LIST": "KAFKA_BROKER",
    "KAFKA_CONSUMER_GROUP": "KAFKA_GROUP_ID",
    "KAFKA_PASSWORD": "KAFKA_SASL_PASSWORD",  # a setting's name  # nosec B105
    "KAFKA_SSL_CA_LOCATION": "KAFKA_SSL_CAFILE",
}
# A broker's own settings, as its image takes them, that look like misspelt ones of ours.
_OF_BROKERS = (
    "KAFKA_BROKER_ID",
    "KAFKA_DEFAULT_REPLICATION_FACTOR",
    "KAFKA_NUM_PARTITIONS",
    "KAFKA_SASL_ENABLED_MECHANISMS",
    "KAFKA_SSL_KEY_PASSWORD",
)
_NEAR, _VERY_NEAR = 0.6, 0.75  # as difflib measures it; at 1 they are equal
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(env_file: Path, overrides: Mapping[str, str], known: Collection[str]) -> dict[str, str]:
    """Every name and value: the environment overrides the file, and `overrides` overrides both.

    Raises SettingsError for a name that looks like a setting and is none of the `known`.
    """
    file = _file(env_file)
    for variable in sorted({*file, *os.environ, *overrides}.difference(known)):
        is_written_for_us = variable in file or variable in overrides
        if variable.startswith((_OURS, _KAFKA)) and (
            is_written_for_us or not _is_of_others(variable, known)
        ):
            shown = variable if variable.isprintable() else ascii(variable)
            raise SettingsError(f"{shown} is not a setting{_advice(variable, known)}")
    return {**file, **os.environ, **overrides}


def is_injected(variable: str) -> bool:
    """Whether an orchestrator sets this name for a service with our name or Kafka's."""
    return _INJECTED.fullmatch(variable) is not None


def _is_of_others(variable: str, known: Collection[str]) -> bool:
    """Whether a name of the environment may be there for another program: Kafka's own scripts and
    tools read `KAFKA_HEAP_OPTS` and many more."""
    if variable.startswith(_OURS):
        return is_injected(variable)
    is_theirs = is_injected(variable) or variable in _OF_BROKERS
    return is_theirs or _nearest(variable, known, _VERY_NEAR) is None


def _advice(variable: str, known: Collection[str]) -> str:
    if near := _nearest(variable, known, _NEAR):
        return f"; did you mean {near}?"
    return f". Known: {', '.join(sorted(known))}."


def _nearest(variable: str, known: Collection[str], at_least: float) -> str | None:
    if variable in _OTHER_NAMES:
        return _OTHER_NAMES[variable]
    if variable.startswith(_KAFKA):
        prefix, known = _KAFKA, [name for name in known if name.startswith(_KAFKA)]
    else:
        prefix = _OURS
    bare = {name.removeprefix(prefix): name for name in known}  # the common prefix would mislead
    near = difflib.get_close_matches(variable.removeprefix(prefix), bare, 1, at_least)
    return bare[near[0]] if near else None


def _file(path: Path) -> dict[str, str]:
    text = _text(path)
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            raise SettingsError(
                f"{path}, line {binding.original.line}: this is not NAME=value; correct it, or"
                " begin the line with #."
            )
    values = dotenv_values(stream=io.StringIO(text))
    return {name: value or "" for name, value in values.items()}


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return ""
    except IsADirectoryError:
        raise SettingsError(f"{path} is a folder; move it away, or make it a file.") from None
    except OSError as error:
        raise SettingsError(
            f"{path} can't be read ({error.strerror}); correct it, or move it away."
        ) from None
    if raw.startswith(_UTF16) or b"\0" in raw:
        raise SettingsError(f"{path} is written in UTF-16; save it as UTF-8.")
    try:
        return raw.decode("utf-8-sig")  # Windows' Notepad writes a BOM before UTF-8
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8; save it as UTF-8."
        ) from None
