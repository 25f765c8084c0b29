"""The names and values of the environment and a `.env` file, before they are interpreted.

A file that can't be read, or a name that is not a setting, raises a SettingsError of one line.
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

_OURS = "JOBQUEST_"
# Kubernetes (and Docker's old links) set these in every container if there is a service named
# jobquest or jobquest-events: they are its address, not settings.
_INJECTED = re.compile(
    r"JOBQUEST_([A-Z0-9_]+_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(env_file: Path, overrides: Mapping[str, str]) -> dict[str, str]:
    """Every name and value: the environment overrides the file, and `overrides` overrides both."""
    return {**_file(env_file), **os.environ, **overrides}


def is_injected(variable: str) -> bool:
    """Whether an orchestrator sets this name for a service with our name."""
    return _INJECTED.fullmatch(variable) is not None


def refuse_unknown(found: Collection[str], known: Collection[str]) -> None:
    """Raise SettingsError for a name with our prefix that is not a setting."""
    for variable in sorted(found):
        if variable.startswith(_OURS) and variable not in known and not is_injected(variable):
            shown = variable if variable.isprintable() else ascii(variable)
            raise SettingsError(f"{shown} is not a setting{_advice(variable, known)}")


def _advice(variable: str, known: Collection[str]) -> str:
    bare = {name.removeprefix(_OURS): name for name in known}  # the common prefix would mislead
    near = difflib.get_close_matches(variable.removeprefix(_OURS), bare, 1)
    if near:
        return f"; did you mean {bare[near[0]]}?"
    return f". Known: {', '.join(sorted(known))}."


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
