"""A node whose machine has a wrong clock: its moderation rules use Valkey's time, which all nodes share."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.aio import aio
from tests.support.native_client import NativeDoor
from tests.support.server import ServerProcess

# Python reads this file when the server's process starts; from then on its wall clock is shifted.
WRONG_CLOCK = "import time\nright = time.time\ntime.time = lambda: right() + {off_s}\n"


@pytest.mark.parametrize("off_s", [-600, 600])
@aio
async def test_rules_made_on_a_node_with_a_wrong_clock_start_at_valkeys_time(
    tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch, off_s: int
) -> None:
    """With its own clock, a node ten minutes behind would not revoke the tokens of the last ten minutes, and one
    ahead would revoke those of the next ten."""
    common = {"valkey_url": valkey_url, "valkey_prefix": "clock" + secrets.token_hex(3), "drain_seconds": 0}
    right, wrong = (ServerProcess(tmp_path / name, node_id=name, **common) for name in ("right", "wrong"))
    door, now_s = NativeDoor(), int(time.time())
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WRONG_CLOCK.format(off_s=off_s), encoding="utf-8")
    try:
        right.start()
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", str(tmp_path / "site"))
            wrong.start()
        ends = datetime.now(UTC) + timedelta(seconds=300)
        notice = {"message": "hello", "severity": "info", "endsAt": ends.isoformat(), "reason": "a test"}
        admin = wrong.token("boss", "admin", iat=None, exp=now_s + 3600)  # valid by both clocks
        status, answer = await wrong.push("POST", "/api/v1/notices", notice, token=admin)
        assert status == 201, answer

        ann = await door.open(right.address, "/tickets", {"token": right.token("ann", "agent", iat=now_s - 30)})
        assert (await ann.expect("server:notice"))["message"] == "hello"
        order = {"userId": "ann", "reason": "a test"}
        status, done = await wrong.push("POST", "/api/v1/revocations", order, token=admin)
        assert (status, done["count"], done["missing"]) == (201, 1, [])
        await ann.gone()
        again = await door.open(right.address, "/tickets", {"token": right.token("ann", "agent", iat=now_s + 20)})
        await again.settled()

        status, nodes = await right.push("GET", "/api/v1/nodes")
        skews = {node["node"]: node["clockSkewMs"] for node in nodes["nodes"]}
        assert abs(skews["right"]) < 1000 and abs(skews["wrong"] - off_s * 1000) < 1000
        status, entries = await right.push("GET", "/api/v1/audit")
        assert all(abs(datetime.fromisoformat(one["at"]).timestamp() - time.time()) < 60 for one in entries["items"])
        await again.close()
    finally:
        for server in (right, wrong):
            if server.process is not None:
                server.stop()
    right.assert_quiet()
    wrong.assert_quiet("this machine's clock is")
    assert f"clock is {'behind' if off_s < 0 else 'ahead of'} Valkey's" in wrong.log()
