"""Tokens for tests: good ones, and ones that no library would write."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from insightdesk_rt.engine.tokens import VerificationKey, VerificationKeys, secret_key, sign

SECRET = b"a secret of more than 32 bytes, for tests"
HS = secret_key(SECRET, ("HS256",))
KEYS = VerificationKeys((HS,))


def claims(**changed: Any) -> dict[str, Any]:
    """Return the claims of an agent for an hour; a claim that is given as ... is left out."""
    now_s = int(time.time())
    all_claims = {"sub": "anna", "role": "agent", "iat": now_s, "exp": now_s + 3600, **changed}
    return {name: value for name, value in all_claims.items() if value is not ...}


def token(key: VerificationKey = HS, headers: dict[str, Any] | None = None, **changed: Any) -> str:
    return sign(claims(**changed), key, headers)


def part(value: Any) -> str:
    """Return a value as a part of a token: bytes as they are, text and all else as JSON."""
    text = value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()
    return urlsafe_b64encode(text).rstrip(b"=").decode()


def handmade(header: Any, payload: Any, secret: bytes = SECRET) -> str:
    """Return a token whose parts are taken as they are given, with a right HS256 signature."""
    head = f"{part(header)}.{part(payload)}"
    return f"{head}.{part(hmac.new(secret, head.encode(), hashlib.sha256).digest())}"


@cache
def private_key(algorithm: str) -> Any:
    """Return a private key for the algorithm; the same one every time."""
    match algorithm[:2], algorithm[2:]:
        case (("RS" | "PS"), _):
            return rsa.generate_private_key(65537, 2048)
        case "ES", "256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ES", "384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ES", "512":
            return ec.generate_private_key(ec.SECP521R1())
    return ed25519.Ed25519PrivateKey.generate()


def private(algorithm: str, kid: str = "") -> VerificationKey:
    return VerificationKey((algorithm,), private_key(algorithm), kid)


def pem(key: Any) -> bytes:
    """Return the public half of a key as PEM."""
    public: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public


def jwk(algorithm: str, kid: str = "", **more: Any) -> dict[str, Any]:
    """Return the public half of the key for the algorithm as a member of a JWKS."""
    from jwt.algorithms import get_default_algorithms

    found: dict[str, Any] = get_default_algorithms()[algorithm].to_jwk(
        private_key(algorithm).public_key(), as_dict=True
    )
    return found | ({"kid": kid} if kid else {}) | more
