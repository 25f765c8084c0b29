"""A service that is a fork of the template behaves as one that `python app.py` started."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.service import wait_for
from tests.template import ForkedService

pytestmark = pytest.mark.slow


def test_a_fork_stops_starts_again_and_ends_when_it_is_killed(tmp_path: Path) -> None:
    service = ForkedService(tmp_path).start()
    url = service.url
    assert "Ctrl-C stops" in service.tail()
    assert service.stop() == 0
    assert service.get("/healthz").code == 0
    assert service.start().url == url
    service.kill()
    assert service.stop() == -signal.SIGKILL


def test_a_fork_has_its_own_settings_folder_and_modules(tmp_path: Path) -> None:
    (tmp_path / "near.py").write_text("def register(consumer): open('here', 'w').close()")
    service = ForkedService(tmp_path, JOBQUEST_HANDLERS="near")
    service.python_path.append(str(tmp_path))
    service.start().kill()
    assert (tmp_path / "here").exists()


def test_a_wrong_setting_ends_a_fork_with_its_code(tmp_path: Path) -> None:
    service = ForkedService(tmp_path, JOBQUEST_WORKERS="many")
    with pytest.raises(AssertionError, match=r"error: JOBQUEST_WORKERS"):
        service.launch()
    wait_for(lambda: service.stop() == 2, 10)
