"""The dashboard's pages, one module each: they read what the API reads and render it.

To add a page, see docs/pages.md: a module with a blueprint `page`, its line in `_PAGES`, and, for
a link in the navigation, one in `NAVIGATION`. The page's scripts belong in its template's block
`scripts`: `static/start.js` loads them after the first paint. Filters are in the query string, so
that every view can be shared.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from jobquest.access.caller import MANAGE, OPERATE, READ
from jobquest.clock import now_ms
from jobquest.events import PERSONAL_FIELDS
from jobquest.events.personal import MASK
from jobquest.web.current import may
from jobquest.web.pages import (
    access,
    analytics,
    audit,
    catalogue,
    event,
    failures,
    live,
    now,
    provider,
    publish,
    sign_in,
    topics,
    users,
)
from jobquest.web.pages.sign_in import csrf_token, is_protected, signed_in
from jobquest.web.pages.words import FILTERS, here
from jobquest.web.personal import is_asked

pages = Blueprint("pages", __name__)

_PAGES = (
    live.page,
    event.page,
    users.page,
    topics.page,
    failures.page,
    analytics.page,
    publish.page,
    catalogue.page,
    sign_in.page,
    provider.page,
    access.page,
    audit.page,
)
# The links of the navigation: endpoint, word, the scope that it needs.
NAVIGATION = (
    ("pages.live.show", "Live", READ),
    ("pages.users.search", "Users", READ),
    ("pages.topics.show", "Topics", READ),
    ("pages.failures.show", "Failures", READ),
    ("pages.analytics.show", "Analytics", READ),
    ("pages.publish.show", "Publish", OPERATE),
    ("pages.catalogue.show", "Catalogue", READ),
    ("pages.access.show", "Access", MANAGE),
    ("pages.audit.show", "Audit", MANAGE),
)

for _page in _PAGES:
    pages.register_blueprint(_page)
for _name, _filter in FILTERS.items():
    pages.add_app_template_filter(_filter, _name)


@pages.app_context_processor
def _for_every_page() -> dict[str, Any]:
    personal = is_asked()
    hidden = [] if personal else sorted(PERSONAL_FIELDS)
    may_read = may(READ)
    return {
        "navigation": [one[:2] for one in NAVIGATION if may(one[2])],
        "may": may,
        "may_read": may_read,
        "signed_in": signed_in(),
        "is_protected": is_protected(),
        "csrf_token": csrf_token(),
        "here": here,
        "page_now": now_ms(),  # so that ages are right even if the browser's clock is wrong
        "personal_shown": personal,
        "may_see_personal": may(MANAGE),
        "page_header": now.header,
        "page_words": {"mask": MASK, "personal": hidden, **now.words()},
    }
