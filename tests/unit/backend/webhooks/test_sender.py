"""One message to receivers of every kind: each ends in time, with a status or a reason."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from insightdesk_rt.backend.signing import new_secret
from insightdesk_rt.backend.webhooks import sender as senders
from insightdesk_rt.backend.webhooks.sender import Attempt, WebhookSender
from insightdesk_rt.backend.webhooks.settings import WebhookSettings
from tests.support.aio import aio
from tests.support.certificates import certificate
from tests.support.receiver import ENDLESS, HANGS, Receiver, a_receiver
from tests.support.server import free_port

SECRET = new_secret()
REFUSALS = [(500, "HTTP 500 Internal Server Error"), (410, "HTTP 410 Gone"), (400, "HTTP 400 Bad Request")]


async def send(url: str, **settings: Any) -> Attempt:
    sender = WebhookSender(WebhookSettings(**{"webhook_allow_private": True, **settings}))
    try:
        return await sender.send(url, [SECRET], "evt_1", b'{"a":1}')
    finally:
        sender.close()


@aio
async def test_a_message_arrives_whole_and_signed() -> None:
    async with a_receiver() as receiver:
        done = await send(receiver.url)
        assert done.accepted and done.status == 200
        [got] = receiver.received
        assert got.path == "/hook" and got.headers["content-type"] == "application/json"
        assert Webhook(SECRET).verify(got.body, got.headers) == {"a": 1}


@pytest.mark.parametrize("status", [201, 204])
@aio
async def test_any_2xx_accepts(status: int) -> None:
    async with a_receiver() as receiver:
        receiver.answer = lambda received: status
        assert (await send(receiver.url)).accepted


@pytest.mark.parametrize(("status", "error"), REFUSALS)
@aio
async def test_another_status_refuses(status: int, error: str) -> None:
    async with a_receiver() as receiver:
        receiver.answer = lambda received: status
        done = await send(receiver.url)
        assert (done.status, done.error) == (status, error)


@aio
async def test_a_redirect_is_not_followed() -> None:
    """It could lead to an address that was never checked."""
    async with a_receiver() as goal, a_receiver() as receiver:
        receiver.answer = lambda received: 307
        receiver.headers = f"Location: {goal.url}\r\n"
        done = await send(receiver.url)
        assert done.error == "HTTP 307: redirects are not followed" and not goal.received


@aio
async def test_a_receiver_that_asks_to_wait_is_heard() -> None:
    async with a_receiver() as receiver:
        receiver.answer, receiver.headers = lambda received: 429, "Retry-After: 120\r\n"
        assert (await send(receiver.url)).retry_after_s == 120
        receiver.headers = "Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\n"
        assert (await send(receiver.url)).retry_after_s == 0


@aio
async def test_a_receiver_that_hangs_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "TIMEOUT_S", 0.3)
    async with a_receiver() as receiver:
        receiver.answer = lambda received: HANGS
        began = time.monotonic()
        done = await send(receiver.url)
        assert not done.accepted and "Timeout" in done.error and time.monotonic() - began < 5


@aio
async def test_an_answer_without_an_end_is_cut_and_counts_by_its_status() -> None:
    """What was accepted is accepted: repeating it for a day would help nobody."""
    async with a_receiver() as receiver:
        receiver.answer = lambda received: ENDLESS
        done = await send(receiver.url)
        assert done.accepted and done.seconds < 5


@aio
async def test_nobody_there_and_a_broken_connection_are_reasons() -> None:
    done = await send(f"http://127.0.0.1:{free_port()}/")
    assert done.status == 0 and "refused" in done.error

    async def breaks(received: Any) -> int:
        raise ConnectionError

    receiver = Receiver()
    await receiver.start()
    receiver.answer = breaks
    assert not (await send(receiver.url)).accepted
    await receiver.stop()


@aio
async def test_a_certificate_is_checked(tmp_path: Path) -> None:
    file = certificate(tmp_path / "tls.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    async with a_receiver(tls=context) as receiver:
        url = receiver.url.replace("http:", "https:")
        done = await send(url)
        assert done.status == 0 and "certificate verify failed" in done.error.lower() and not receiver.received
        assert (await send(url, webhook_ca_file=str(file))).accepted
        wrong_name = url.replace("127.0.0.1", "localhost")
        assert not (await send(wrong_name, webhook_ca_file=str(file))).accepted


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433"])
@aio
async def test_a_private_address_is_not_called_without_the_setting(host: str) -> None:
    """Whatever the webhook's URL was when it was made: the name may lead elsewhere now."""
    async with a_receiver() as receiver:
        done = await send(f"http://{host}:{receiver.port}/", webhook_allow_private=False)
        assert done.status == 0 and "is not a public address" in done.error and not receiver.received
