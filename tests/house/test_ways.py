"""docs/architecture.md says how many files a request enters, and which: counted on a running node, then compared."""

from __future__ import annotations

import pytest

from tests.house.ways import a_node, count_files, rows, written


@pytest.mark.valkey
def test_the_architecture_page_says_which_files_a_request_enters() -> None:
    with a_node() as node:
        found = rows(count_files(node))
    assert written() == found, "write the table anew: .venv/bin/python -m tests.house.ways"
