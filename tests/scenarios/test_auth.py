"""Every namespace requires a valid token."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from websockets.exceptions import InvalidStatus

from insightdesk_rt.helpdesk.features import PATHS
from tests.scenarios.conftest import stock_clients
from tests.scenarios.story import Story
from tests.support.clients import Refused
from tests.support.native_client import NativeDoor, NativePeer
from tests.support.server import SECRET, ServerProcess


def signed(key: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    now = int(time.time())
    whole = {"sub": "root", "name": "Root", "role": "admin", "iat": now, "exp": now + 600, **claims}
    return jwt.encode({k: v for k, v in whole.items() if v is not None}, key, algorithm=algorithm)


def auths() -> dict[str, tuple[dict[str, Any], str]]:
    """Fault → the auth object, and the code of the refusal."""
    now = int(time.time())
    return {
        "no token": ({}, "AUTH_TOKEN_MISSING"),
        "null": ({"token": None}, "AUTH_TOKEN_MISSING"),
        "empty": ({"token": ""}, "AUTH_TOKEN_MISSING"),
        "no text": ({"token": 42}, "AUTH_TOKEN_MISSING"),
        "not a JWT": ({"token": "let me in"}, "AUTH_TOKEN_INVALID"),
        "three empty parts": ({"token": ".."}, "AUTH_TOKEN_INVALID"),
        "expired": ({"token": signed(exp=now - 10)}, "AUTH_TOKEN_EXPIRED"),
        "another's signature": ({"token": signed("x" * 40)}, "AUTH_TOKEN_INVALID"),
        "another algorithm": ({"token": signed(algorithm="HS512")}, "AUTH_TOKEN_INVALID"),
        "no signature": ({"token": signed("", "none")}, "AUTH_TOKEN_INVALID"),
        "no end": ({"token": signed(exp=None)}, "AUTH_TOKEN_INVALID"),
        "no subject": ({"token": signed(sub=None)}, "AUTH_TOKEN_INVALID"),
        "an unheard-of role": ({"token": signed(role="root")}, "AUTH_TOKEN_INVALID"),
    }


@pytest.mark.parametrize("wrong", auths())
async def test_refused_everywhere_with(story: Story, wrong: str) -> None:
    auth, code = auths()[wrong]
    for namespace in PATHS:
        refused = await story.refused(namespace, auth)
        assert refused.message == code, namespace
        assert refused.data["code"] == code
        assert isinstance(refused.data["message"], str)
        assert "eyJ" not in str(refused.data), "a token must not be sent back"
        if story.door.name == "native":
            assert refused.close_code == 4401


async def test_a_valid_token_opens_every_namespace(story: Story) -> None:
    sids = set()
    for namespace in PATHS:
        peer = await story.join(story.admin(), namespace)
        assert peer.sid and peer.recovered is False
        sids.add(peer.sid)
    assert len(sids) == len(PATHS)


@stock_clients
async def test_a_namespace_that_does_not_exist_is_refused(story: Story) -> None:
    refused = await story.refused("/random", {"token": story.token(story.admin())})
    assert refused.message == "Invalid namespace"


async def test_on_the_native_protocol_a_bearer_header_replaces_the_token(server: ServerProcess) -> None:
    for header, code in ((signed(), None), (signed("x" * 64), "AUTH_TOKEN_INVALID")):
        peer = NativePeer("/tickets")
        await peer.start(server.address, {}, {"Authorization": f"Bearer {header}"})
        if code is None:
            await peer.came_in()
            await peer.settled()
        else:
            with pytest.raises(Refused, match=code):
                await peer.came_in()
        await peer.close()


async def test_on_the_native_protocol_an_unknown_namespace_is_not_found(server: ServerProcess) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await NativeDoor().open(server.address, "/random", {"token": signed()})
    assert refused.value.response.status_code == 404
