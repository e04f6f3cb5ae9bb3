"""Signatures, verified by the package of Standard Webhooks itself, in Python and in Node."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from insightdesk_rt.backend.signing import new_secret, secret_key, signed_headers
from tests.support.node_client import why_not

TESTS = Path(__file__).parents[2]
VERIFY_JS = """
const { Webhook } = require("standardwebhooks");
const { secret, body, headers } = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(new Webhook(secret).verify(body, headers)));
"""


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=4), st.integers(24, 64))
def test_any_message_is_verified_by_the_package(data: dict[str, str], length: int) -> None:
    secret = "whsec_" + base64.b64encode(b"\x07" * length).decode()
    body = json.dumps(data).encode()
    headers = signed_headers([secret], "evt_1", int(time.time()), body)
    assert Webhook(secret).verify(body, headers) == data


def test_a_changed_message_an_old_one_and_another_secret_are_refused() -> None:
    secret, now = new_secret(), int(time.time())
    headers = signed_headers([secret], "evt_1", now, b'{"a":1}')
    Webhook(secret).verify(b'{"a":1}', headers)
    wrong = [
        (secret, b'{"a":2}', headers),
        (new_secret(), b'{"a":1}', headers),
        (secret, b'{"a":1}', {**headers, "webhook-id": "evt_2"}),
        (secret, b'{"a":1}', signed_headers([secret], "evt_1", now - 600, b'{"a":1}')),
    ]
    for key, body, shown in wrong:
        with pytest.raises(WebhookVerificationError):
            Webhook(key).verify(body, shown)


def test_while_a_secret_is_replaced_both_verify() -> None:
    old, new = new_secret(), new_secret()
    headers = signed_headers([new, old], "evt_1", int(time.time()), b"{}")
    for secret in (old, new):
        Webhook(secret).verify(b"{}", headers)


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "")
def test_nodes_package_verifies_the_same_signature() -> None:
    secret, body = new_secret(), '{"type":"chat.message","data":{"text":"Grüße 🔥"}}'
    headers = signed_headers([secret], "evt_1", int(time.time()), body.encode())
    said = subprocess.run(
        ["node", "-e", VERIFY_JS],
        cwd=TESTS,
        input=json.dumps({"secret": secret, "body": body, "headers": headers}),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=20,
    )
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout) == json.loads(body)


@pytest.mark.parametrize("secret", ["", "whsec_", "abc", "whsec_%%%", "whsec_" + base64.b64encode(b"x" * 23).decode()])
def test_a_secret_that_is_none_is_refused_without_showing_it(secret: str) -> None:
    with pytest.raises(ValueError) as refused:
        secret_key(secret)
    assert "whsec_ and 24 to 64 random bytes" in str(refused.value)


def test_new_secrets_are_random() -> None:
    assert len(secret_key(new_secret())) == 32 and new_secret() != new_secret()


def test_the_example_of_the_docs_verifies_and_drops_repeats() -> None:
    page = (TESTS.parent / "docs" / "backend.md").read_text(encoding="utf-8")
    [example] = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "standardwebhooks" in code]
    secret, seen, handled = new_secret(), set[str](), []

    def seen_before(id: str) -> bool:
        return id in seen or bool(seen.add(id))

    names: dict[str, Any] = {"seen_before": seen_before, "handle": lambda kind, data: handled.append((kind, data))}
    exec(example.replace("whsec_…", secret), names)
    body = b'{"id":"evt_1","type":"chat.closed","at":"","data":{"a":1}}'
    headers = signed_headers([secret], "evt_1", int(time.time()), body)
    assert [names["receive"](body, headers) for _ in range(2)] == [204, 204]
    assert handled == [("chat.closed", {"a": 1})]
    assert names["receive"](body + b" ", headers) == 400
