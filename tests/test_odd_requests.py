"""Some hundred odd requests; `python -m tests.odd_requests` sends as many as one likes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.odd_requests import check, requests
from tests.service import Service


@pytest.mark.slow
def test_odd_requests_get_the_same_answer_whether_they_come_first_or_later(tmp_path: Path) -> None:
    service = Service(tmp_path).start()
    try:
        found = check(service, requests(300, seed=3))
    finally:
        service.kill()
    print(dict(found.codes))
    assert not found.wrong, "\n".join(found.wrong[:5])
    assert {"201", "400", "403"} <= found.codes.keys()
