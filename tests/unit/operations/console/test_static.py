"""The console's scripts repeat little of what the server knows, and nothing wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import insightdesk_rt
from insightdesk_rt.helpdesk.features import PATHS

PARTS_JS = Path(insightdesk_rt.__file__).parent / "operations" / "console" / "static" / "parts.js"


def test_the_console_offers_every_namespace() -> None:
    listed = re.search(r"export const NAMESPACES = (\[.*\]);", PARTS_JS.read_text("utf-8"))
    assert listed and json.loads(listed[1]) == list(PATHS), "NAMESPACES in operations/console/static/parts.js"
