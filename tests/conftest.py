"""Fixtures for every test; see `service.py` for the service as a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from jobquest import create_app
from jobquest.runtime import Runtime


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    """Settings of a service whose files go away, and whose consumer nobody starts."""
    return {"JOBQUEST_DATA_DIR": str(tmp_path), "JOBQUEST_CONSUMER_AUTOSTART": "false"}


@pytest.fixture
def runtime(settings: dict[str, str]) -> Iterator[Runtime]:
    """The parts without a server; tests step the consumer by hand."""
    from jobquest.config import load

    made = Runtime(load(settings))
    yield made
    made.consumer.close()
    made.stop()


@pytest.fixture
def client(settings: dict[str, str]) -> Iterator[FlaskClient]:
    """Flask's test client over a whole application."""
    app = create_app(settings)
    yield app.test_client()
    app.extensions["jobquest"].stop()
