"""Signatures of webhooks and of the questions to hooks, as Standard Webhooks 1.0 describes them.

See https://www.standardwebhooks.com. The signed text is `<webhook-id>.<webhook-timestamp>.<body>`, the signature
HMAC-SHA256 in base64 behind `v1,`. A secret is `whsec_` and base64. While a secret is
being replaced, the header holds a signature of each of the two.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence

PREFIX = "whsec_"
SECRET_BYTES = 32
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64  # the specification's bounds


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def secret_key(secret: str) -> bytes:
    """Return the key in a secret. Raises ValueError that says what is wrong with it, without the secret itself."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        bounds = f"{MIN_SECRET_BYTES} to {MAX_SECRET_BYTES}"
        raise ValueError(f"Expected {PREFIX} and {bounds} random bytes in base64.")
    return key


def signed_headers(keys: Sequence[str], id: str, at_s: int, body: bytes) -> dict[str, str]:
    """Return the headers that identify and sign a message. `keys` are secrets, the present one first."""
    text = f"{id}.{at_s}.".encode() + body
    macs = [hmac.new(secret_key(one), text, hashlib.sha256).digest() for one in keys]
    signature = " ".join(f"v1,{base64.b64encode(mac).decode()}" for mac in macs)
    return {"webhook-id": id, "webhook-timestamp": str(at_s), "webhook-signature": signature}
