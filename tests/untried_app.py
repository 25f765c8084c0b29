"""`python app.py` with a version of kafka-python that was not tried."""

from __future__ import annotations

import kafka

from tests.logs import UNTRIED

if __name__ == "__main__":
    kafka.__version__ = UNTRIED
    from jobquest.server import main

    main()
