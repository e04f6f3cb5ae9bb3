"""Numbers and lists are complete, and the same on every page."""

from __future__ import annotations

from tests.console.browser import Console, needs_chromium
from tests.console.stage import Stage

pytestmark = needs_chromium


def test_all_pages_show_the_same_number_of_connections(console: Console) -> None:
    """Regression: the nodes page did not count the demo's robots, but the other pages did."""

    def counts() -> set[int]:
        console.go("overview")
        tile = console.page.locator(".tile", has_text="Connections").inner_text()
        assert "by demo robots" in tile
        console.go("nodes")
        cards = console.page.locator(".node dd a").all_inner_texts()
        console.go("connections")
        heading = console.page.locator("#page h2").inner_text()
        return {int(tile.split("\n")[1]), sum(map(int, cards)), int(heading.split()[0])}

    for _ in range(10):  # robots connect and disconnect in the meantime
        if len(found := counts()) == 1:
            break
    else:
        raise AssertionError(f"three pages count differently: {found}")
    console.page.get_by_label("Transport").select_option("demo")
    console.page.get_by_text("connections found").wait_for()
    assert "demo" in console.page.locator("#page tbody tr").first.inner_text()


def test_a_user_who_is_on_two_nodes_is_counted_once(console: Console, stage: Stage) -> None:
    """Regression: the tile added up the nodes' numbers."""
    stage.come("zoe", "/presence", node=stage.n1)
    stage.come("zoe", "/tickets", node=stage.n2)

    def counts() -> tuple[int, int, int]:
        answer = stage.push("GET", "nodes", scope="viewer")
        people = {one["user"]["id"] for one in stage.push("GET", "connections?limit=500", scope="viewer")["items"]}
        console.go("overview")
        tile = console.page.locator(".tile", has_text="Users").inner_text()
        assert "once per node" not in tile
        return answer["users"], len(people), int(tile.split("\n")[1])

    for _ in range(10):  # robots connect and disconnect in the meantime
        if len(set(found := counts())) == 1:
            break
    else:
        raise AssertionError(f"API, list and page count differently: {found}")
    answer = stage.push("GET", "nodes", scope="viewer")
    assert answer["users"] < sum(node["users"] for node in answer["nodes"])


def test_all_blocks_are_shown_if_there_are_more_than_a_page(console: Console, stage: Stage) -> None:
    """Regression: the page showed the first 500 without a note about the rest."""
    made = [stage.push("POST", "blocks", {"ip": f"192.0.2.{n}", "reason": "many"})["id"] for n in range(1, 53)]
    console.go("limits")
    blocks = console.page.locator("section", has=console.page.get_by_role("table", name="Blocks"))
    blocks.get_by_role("button", name="Next").click()
    blocks.get_by_text("Page 2").wait_for()
    blocks.locator("tbody tr", has_text="192.0.2.1").first.wait_for()
    blocks.get_by_role("button", name="Previous").click()
    blocks.locator("tbody tr", has_text="192.0.2.52").wait_for()
    for id in made:
        stage.push("DELETE", f"blocks/{id}?reason=over")
