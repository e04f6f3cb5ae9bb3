"""A token is valid in every respect or refused with one of three codes; no input causes another error."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from insightdesk_rt.engine import tokens as auth
from insightdesk_rt.engine.claims import claim_map
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import User
from insightdesk_rt.engine.tokens import (
    BadKey,
    BadToken,
    UnknownKey,
    VerificationKey,
    VerificationKeys,
    jwk_key,
    public_key,
    public_keys,
    secret_key,
    sign,
    unverified,
    verify,
    verify_pass,
)
from tests.support.tokens import HS, KEYS, SECRET, claims, handmade, jwk, part, pem, private, private_key, token

HEADER = {"alg": "HS256", "typ": "JWT"}


def code(text: object, keys: VerificationKeys = KEYS, now_s: float | None = None) -> str:
    """Return the code the token is refused with."""
    with pytest.raises(RtError) as caught:
        verify(text, keys, time.time() if now_s is None else now_s)
    return caught.value.code


def refused(text: object, keys: VerificationKeys = KEYS) -> bool:
    return code(text, keys) == "AUTH_TOKEN_INVALID"


def test_the_claims_of_a_token_become_a_user() -> None:
    now_s = int(time.time())
    text = token(
        name="Anna Ö. 🙂", email="a@example.com", teamId="t1", sessionId="s1", iat=now_s, exp=now_s + 60, x=[1]
    )
    assert verify(text, KEYS, now_s) == User(
        "anna",
        "agent",
        "Anna Ö. 🙂",
        "a@example.com",
        "t1",
        "s1",
        now_s + 60,
        now_s,  # type: ignore[arg-type]
    )
    assert verify(token(iat=..., name=None, teamId=None), KEYS, now_s).issued_s == 0


@pytest.mark.parametrize("missing", [None, "", 0, 1, b"bytes", ["a"], {"token": "a"}, True])
def test_an_absent_token_is_refused_as_missing(missing: object) -> None:
    assert code(missing) == "AUTH_TOKEN_MISSING"


# ── times ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_is_valid_until_its_last_second() -> None:
    text = token(exp=1_800_000_000, iat=...)
    assert verify(text, KEYS, 1_799_999_999.9).expires_s == 1_800_000_000
    assert code(text, now_s=1_800_000_000) == "AUTH_TOKEN_EXPIRED"


def test_leeway_extends_a_token_and_its_connection() -> None:
    keys = VerificationKeys((HS,), leeway_s=30)
    text = token(exp=1_800_000_000, iat=...)
    assert verify(text, keys, 1_800_000_029).expires_s == 1_800_000_030
    assert code(text, keys, 1_800_000_030) == "AUTH_TOKEN_EXPIRED"


def test_a_connection_lasts_a_day_at_most() -> None:
    now_s = int(time.time())
    assert verify(token(exp=now_s + 30 * 86_400), KEYS, now_s).expires_s == now_s + 86_400


@pytest.mark.parametrize(
    "exp",
    [
        "...",
        '"1900000000"',
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "9" * 400,
        "9" * 5000,
        "-1",
        "0",
        "true",
        "null",
        "[1900000000]",
        '{"a":1}',
        str(1 << 53),
        "0x10",
        "01900000000",
    ],
)
def test_exp_is_a_finite_number_of_seconds(exp: str) -> None:
    """PyJWT accepts a text and a number of 400 digits, which overflows a timer."""
    more = "" if exp == "..." else f',"exp":{exp}'
    assert refused(handmade(HEADER, f'{{"sub":"anna","role":"agent"{more}}}'))


def test_an_expired_token_with_another_fault_is_invalid() -> None:
    assert code(token(exp=int(time.time()) - 9)) == "AUTH_TOKEN_EXPIRED"
    assert refused(token(exp=int(time.time()) - 9, role="root"))
    assert refused(sign(claims(exp=int(time.time()) - 9), secret_key(b"x" * 32, ("HS256",))))


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_from_the_future_is_refused_beyond_a_minute(claim: str) -> None:
    now_s = int(time.time())
    assert verify(token(**{claim: now_s + 60}), KEYS, now_s)
    assert refused(token(**{claim: now_s + 3600}))
    for wrong in ("1", "1.5", True, -1, [], 1 << 60, 1e300):
        assert refused(token(**{claim: wrong}))


@pytest.mark.parametrize(
    ("claim", "written", "now_s", "accepted"),
    [
        ("exp", "1800000000.9", 1_799_999_999, True),
        ("exp", "1800000000.9", 1_800_000_000, False),  # it ends with its last whole second
        ("exp", "1.8e9", 1_799_999_999, True),
        ("iat", "1800000000.1", 1_800_000_001 - 60, True),
        ("iat", "1800000000.1", 1_800_000_000 - 60, False),  # it begins with its first
        ("nbf", "1800000000.1", 1_800_000_001 - 60, True),
        ("nbf", "1800000000.1", 1_800_000_000 - 60, False),
    ],
)
def test_times_may_be_fractions_of_seconds(claim: str, written: str, now_s: int, accepted: bool) -> None:
    """RFC 7519 2: a NumericDate may be non-integer; Python's time.time() and others write such ones."""
    exp = "" if claim == "exp" else ',"exp":1900000000'
    text = handmade(HEADER, f'{{"sub":"anna","role":"agent","{claim}":{written}{exp}}}')
    if accepted:
        assert verify(text, KEYS, now_s).id == "anna"
    else:
        assert code(text, now_s=now_s) == ("AUTH_TOKEN_EXPIRED" if claim == "exp" else "AUTH_TOKEN_INVALID")


def test_an_exp_in_milliseconds_is_accepted_and_reported() -> None:
    """It is the year 58,000 in seconds. The connection lasts a day, as with any token."""
    notices: list[str] = []
    user = verify(token(exp=1_800_000_000_000), KEYS, 1_799_999_000, notices.append)
    assert user.expires_s == 1_799_999_000 + 86_400
    assert len(notices) == 1 and "milliseconds" in notices[0]
    verify(token(exp=4_000_000_000), KEYS, 1_799_999_000, notices.append)
    assert len(notices) == 1


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_beginning_in_milliseconds_is_refused_with_that_reason(claim: str) -> None:
    with pytest.raises(BadToken, match="milliseconds"):
        verify(token(**{claim: 1_800_000_000_000}), KEYS, 1_800_000_000)


# ── how it is written down ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("around", ["{}\n", " {} ", "\t{}\r\n", "Bearer {}", "bearer  {}\n", " BEARER {}"])
def test_line_breaks_and_the_bearer_scheme_around_a_token_are_removed(around: str) -> None:
    """People copy them with a token from a file, a shell or an Authorization header."""
    assert verify(around.format(token()), KEYS, time.time()).id == "anna"


@pytest.mark.parametrize("nothing", [" ", "\n", "Bearer ", "bearer \n"])
def test_an_empty_token_is_refused_as_missing(nothing: str) -> None:
    assert code(nothing) == "AUTH_TOKEN_MISSING"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (f'"{token()}"', "quotes around it"),
        (f"'{token()}'", "quotes around it"),
        (token().rpartition(".")[0], "2 parts"),
        (token(sub=17), 'sub is a number; it must be text, as in "17"'),
        (token(sub=17.5), "sub is a number"),
        (token(teamId=4), "teamId is a number"),
        (token(sessionId=4), "sessionId is a number"),
    ],
)
def test_the_client_receives_the_reason_for_a_malformed_token(wrong: str, words: str) -> None:
    with pytest.raises(BadToken) as caught:
        verify(wrong, KEYS, time.time())
    assert words in caught.value.message and words in caught.value.why


@pytest.mark.parametrize(
    "wrong",
    [
        sign(claims(), secret_key(b"x" * 32, ("HS256",))),
        token(aud="desk"),
        token(role="root"),
        token(iat=int(time.time()) + 3600),
        token(exp=...),
    ],
)
def test_other_reasons_are_only_logged(wrong: str) -> None:
    with pytest.raises(BadToken) as caught:
        verify(wrong, KEYS, time.time())
    assert caught.value.message == "The token is not valid."
    assert caught.value.why


def test_unverified_claims_can_be_displayed() -> None:
    header, body = unverified("Bearer " + sign(claims(sub="bob"), secret_key(b"x" * 32, ("HS256",))))
    assert header["alg"] == "HS256" and body["sub"] == "bob"
    for nonsense in ("", "x", "a.b.c", "\u20ac.b.c", '"a.b.c"'):
        with pytest.raises(BadToken):
            unverified(nonsense)


# ── claims ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "sub",
    [..., None, "", 1, True, ["anna"], "u1\n", "u\x00", "\x1b[31m", "a\u2028b", "a\u202eb", "a\u200bb", "x" * 129],
)
def test_sub_is_a_visible_text_of_1_to_128_characters(sub: object) -> None:
    assert refused(token(sub=sub))
    assert verify(token(sub="x" * 128), KEYS, time.time()).id == "x" * 128
    assert verify(token(sub="auth0|Größe 1"), KEYS, time.time()).id == "auth0|Größe 1"


@pytest.mark.parametrize("role", [..., None, "", "root", "Admin", "admin ", 1, ["root", 1], [], {"admin": 1}])
def test_other_roles_are_refused(role: object) -> None:
    assert refused(token(role=role))


@pytest.mark.parametrize("role", ["customer", "agent", "admin"])
def test_the_three_roles_are_accepted(role: str) -> None:
    assert verify(token(role=role), KEYS, time.time()).role == role


@pytest.mark.parametrize(("claim", "longest"), [("name", 256), ("email", 320), ("teamId", 128), ("sessionId", 128)])
def test_other_claims_have_a_limit_and_no_control_characters(claim: str, longest: int) -> None:
    assert verify(token(**{claim: "x" * longest}), KEYS, time.time())
    for wrong in ("x" * (longest + 1), 7, False, ["x"], "a\nb", "a\x7f", "a\x85b", "a\u2029b"):
        assert refused(token(**{claim: wrong})), wrong


def test_a_lone_surrogate_in_a_claim_is_refused() -> None:
    """Python's json reads it, but writing it to a socket or a log fails."""
    assert refused(handmade(HEADER, '{"sub":"a\\ud800","role":"agent","exp":1900000000}'))
    assert refused(handmade(HEADER, '{"sub":"a","name":"\\udfff","role":"agent","exp":1900000000}'))


def test_issuer_and_audience_are_checked_if_they_are_configured() -> None:
    keys = VerificationKeys((HS,), issuer="https://id", audience="desk")
    good = {"iss": "https://id", "aud": "desk"}
    assert verify(token(**good), keys, time.time())
    assert verify(token(**good | {"aud": ["other", "desk"]}), keys, time.time())
    for wrong in ({"iss": ...}, {"iss": "https://id/"}, {"iss": ["https://id"]}, {"iss": 1}):
        assert refused(handmade(HEADER, claims(**good | wrong)), keys), wrong
    for other in ({"aud": ...}, {"aud": "other"}, {"aud": []}, {"aud": 1}, {"aud": ["desk", 1]}, {"aud": {"desk": 1}}):
        assert refused(token(**good | other), keys), other


def test_a_token_with_an_audience_is_refused_if_none_is_configured() -> None:
    """RFC 7519 4.1.3."""
    assert refused(token(aud="other"))
    assert verify(token(iss="anybody"), KEYS, time.time())


@pytest.mark.parametrize("claim", ["typ", "use", "token_use"])
def test_a_token_of_another_type_is_refused(claim: str) -> None:
    for wrong in ("refresh", "ID", "id", "reset", 1, None):
        assert refused(token(**{claim: wrong}))
    for right in ("access", "Bearer", "at+jwt"):
        assert verify(token(**{claim: right}), KEYS, time.time())


# ── header and signature ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "alg", ["none", "None", "nOnE", "", None, 1, ["HS256"], {"HS256": 1}, "HS384", "RS256", "hs256", "A" * 999]
)
def test_a_token_with_an_unlisted_algorithm_is_refused(alg: object) -> None:
    assert refused(handmade({"alg": alg}, claims()))
    assert refused(f"{part({'alg': alg})}.{part(claims())}.")


def test_a_token_without_an_algorithm_or_signature_is_refused() -> None:
    assert refused(handmade({}, claims()))
    assert refused(token().rpartition(".")[0] + ".")


@pytest.mark.parametrize(
    "more",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"b64": False},
        {"b64": True},
        {"zip": "DEF"},
        {"enc": "A256GCM"},
        {"cty": "JWT"},
        {"typ": "refresh+jwt"},
        {"typ": "dpop+jwt"},
        {"typ": None},
        {"typ": 1},
        {"typ": "logout+jwt"},
        {"kid": 1},
        {"kid": ["a"]},
        {"kid": "k" * 10_000},
        {"kid": "k" * 257},
    ],
    ids=str,
)
def test_a_header_with_invalid_members_is_refused(more: dict[str, Any]) -> None:
    assert refused(handmade(HEADER | more, claims()))


@pytest.mark.parametrize(
    "more",
    [
        {"jku": "http://evil/"},
        {"x5u": "http://evil/"},
        {"jwk": {"kty": "oct"}},
        {"x5c": ["x"]},
        {"typ": "at+jwt"},
        {"kid": "../../dev/null"},
        {"kid": "' OR 1=1 --"},
        {"kid": ""},
    ],
    ids=str,
)
def test_key_locations_in_a_header_are_ignored(more: dict[str, Any]) -> None:
    """A configured key without a kid verifies tokens with any kid; the URL of another key is never fetched."""
    assert verify(handmade(HEADER | more, claims()), KEYS, time.time()).id == "anna"
    assert refused(handmade(HEADER | more, claims(), b"x" * 32))


def test_a_public_key_cannot_be_used_as_a_secret() -> None:
    """A known attack: sign HS256 with the text of the RSA public key."""
    text = pem(private_key("RS256"))
    keys = VerificationKeys((public_key(text, ("RS256",)),))
    both = VerificationKeys((public_key(text, ("RS256", "HS256")), HS))
    der = (
        private_key("RS256")
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    for secret in (text, text.strip(), der):
        assert refused(handmade(HEADER, claims(), secret), keys)
        assert refused(handmade(HEADER, claims(), secret), both)
    with pytest.raises(BadKey):
        secret_key(text, ("HS256",))


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA"])
def test_public_keys_verify_tokens_of_their_private_keys(algorithm: str) -> None:
    text = token(private(algorithm))
    by_file = public_key(pem(private_key(algorithm)), (algorithm, "HS256"))
    by_jwks = jwk_key(jwk(algorithm, kid="k1"), (algorithm, "HS256"))
    assert by_jwks is not None
    assert by_file.algorithms == by_jwks.algorithms == (algorithm,)
    for key in (by_file, by_jwks):
        assert verify(text, VerificationKeys((key,)), time.time()).id == "anna"
        assert refused(text[:-8] + "AAAAAAAA", VerificationKeys((key,)))
        assert refused(token(), VerificationKeys((key,)))


def test_a_key_is_not_used_for_another_family_of_algorithms() -> None:
    rs = VerificationKeys((public_key(pem(private_key("RS256")), ("RS256",)),))
    assert refused(sign(claims(), VerificationKey(("PS256",), private_key("RS256"))), rs)
    assert refused(sign(claims(), VerificationKey(("RS512",), private_key("RS256"))), rs)


def test_the_kid_selects_the_key() -> None:
    one, two = secret_key(b"1" * 32, ("HS256",)), secret_key(b"2" * 32, ("HS256",))
    keys = VerificationKeys(
        (VerificationKey(one.algorithms, one.material, "k1"), VerificationKey(two.algorithms, two.material, "k2"))
    )
    assert verify(token(two, {"kid": "k2"}), keys, time.time())
    assert refused(token(two, {"kid": "k1"}), keys)
    assert refused(token(two), keys), "two keys fit and the token has no kid"
    with pytest.raises(UnknownKey):
        verify(token(two, {"kid": "k3"}), keys, time.time())
    assert verify(token(one), VerificationKeys(keys.keys[:1]), time.time()), "one key fits"
    assert verify(token(two, {"kid": "k9"}), VerificationKeys((keys.keys[0], two)), time.time()), (
        "a key without kid fits every kid"
    )


def test_duplicate_keys_in_json_are_refused() -> None:
    """Python uses the last, other readers the first, so they would see different users."""
    body = f'"role":"agent","exp":{int(time.time()) + 60}'
    assert verify(handmade(HEADER, '{"sub":"a",' + body + "}"), KEYS, time.time()).id == "a"
    assert refused(handmade(HEADER, '{"sub":"a","sub":"b",' + body + "}"))
    assert refused(handmade(HEADER, '{"sub":"a","s\\u0075b":"b",' + body + "}"))
    assert refused(handmade(HEADER, '{"sub":"a","x":{"y":1,"y":2},' + body + "}"))
    assert refused(handmade('{"alg":"none","alg":"HS256"}', claims()))


@pytest.mark.parametrize("payload", ["[]", "1", "null", '"x"', "", "{", "{}x", b"\xff\xfe{}", "\ufeff{}", '{"a":\x01}'])
def test_claims_that_are_not_an_object_are_refused(payload: Any) -> None:
    assert refused(handmade(HEADER, payload))
    assert refused(handmade(payload, claims()))


def test_deep_json_is_refused() -> None:
    assert refused(handmade(HEADER, "[" * 3000 + "]" * 3000))
    assert refused(handmade(HEADER, '{"a":' * 900 + "1" + "}" * 900))


def test_a_long_token_is_refused_before_it_is_decoded() -> None:
    assert verify(token(x="y" * 4000), KEYS, time.time())
    assert refused(token(x="y" * 8000))
    assert refused("a" * 1_000_000)
    assert refused("." * 1_000_000)


@pytest.mark.parametrize(
    "text",
    [
        "\ud800.a.b",
        "é.a.b",
        "a",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "a.b.c.d.e",
        "...",
        "..",
        "\x00",
        "Bearer x.y.z",
        "=.=.=",
    ],
)
def test_a_text_that_is_not_a_token_is_refused(text: str) -> None:
    assert refused(text)


def test_base64_must_be_canonical() -> None:
    """Otherwise the same token would have several texts."""
    head, body, signature = token().split(".")
    last = signature[-1]
    other = {"A": "B", "Q": "R", "g": "h", "w": "x"}.get(last, chr(ord(last) + 1))
    for text in (
        f"{head}.{body}.{signature}=",
        f"{head}.{body[:4]} {body[4:]}.{signature}",
        f"{head}.{body}.{signature[:-1]}{other}",
        f"{head}!.{body}.{signature}",
    ):
        assert refused(text), text


@given(st.text(), st.text(), st.text())
def test_any_text_is_refused_without_another_error(one: str, two: str, three: str) -> None:
    for text in (one, f"{one}.{two}.{three}", f"{part(HEADER)}.{part(two.encode('utf-8', 'surrogatepass'))}.{three}"):
        with pytest.raises(RtError):
            verify(text, KEYS, time.time())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda one: st.lists(one) | st.dictionaries(st.text(), one),
    max_leaves=5,
)
CLAIMS = st.dictionaries(
    st.sampled_from(["sub", "role", "exp", "iat", "nbf", "aud", "iss", "name", "email", "teamId", "sessionId", "typ"]),
    JSON,
)


@settings(max_examples=60)
@given(CLAIMS, st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk"]), JSON))
def test_any_claims_give_a_user_or_a_refusal(some: dict[str, Any], header: dict[str, Any]) -> None:
    """The signature is valid: a faulty issuer could write such claims."""
    for head in (HEADER, {**header, "alg": "HS256"}, header):
        try:
            user = verify(handmade(json.dumps(head), json.dumps({**claims(), **some})), KEYS, time.time())
        except RtError as why:
            assert why.code in ("AUTH_TOKEN_INVALID", "AUTH_TOKEN_EXPIRED")
        else:
            assert user.id.isprintable() and time.time() - 1 < user.expires_s <= time.time() + 86_400


@given(st.data())
def test_a_token_with_a_changed_character_is_refused(data: st.DataObject) -> None:
    text = token()
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.characters(codec="ascii").filter(lambda c: c != text[at]))
    assert refused(text[:at] + new + text[at + 1 :])


def test_an_unexpected_error_of_the_library_becomes_a_refusal() -> None:
    """PyJWT raises TypeError for an algorithm with a key of another kind; our key table prevents that."""
    assert refused(token(), VerificationKeys((VerificationKey(("HS256",), private_key("RS256").public_key()),)))


def test_the_reason_of_a_refusal_is_logged_and_not_sent() -> None:
    with pytest.raises(BadToken) as caught:
        verify(token(role="root"), KEYS, time.time())
    assert "role" in caught.value.why
    assert caught.value.as_dict() == {"code": "AUTH_TOKEN_INVALID", "message": "The token is not valid."}


# ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_secret_has_at_least_32_bytes() -> None:
    with pytest.raises(BadKey, match="shorter than 32 bytes"):
        secret_key(b"x" * 31, ("HS256",))
    with pytest.raises(BadKey, match="no HS algorithm"):
        secret_key(SECRET, ("RS256",))
    assert secret_key(b"x" * 32, ("RS256", "HS512")).algorithms == ("HS512",)


def test_a_private_unsuitable_or_short_key_is_refused() -> None:
    key = private_key("RS256")
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(BadKey, match="private key"):
        public_key(secret, ("RS256",))
    with pytest.raises(BadKey, match="for ES256 or EdDSA"):
        public_key(pem(key), ("HS256", "ES256", "EdDSA"))
    with pytest.raises(BadKey, match="for ES256"):
        public_key(pem(private_key("ES384")), ("ES256",))
    with pytest.raises(BadKey, match="less than 2048"):
        public_key(pem(rsa.generate_private_key(65537, 1024)), ("RS256",))
    for junk in (b"", b"junk", b"\xff\xfe", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        with pytest.raises(BadKey):
            public_key(junk, ("RS256", "ES256", "EdDSA"))


@pytest.mark.parametrize(
    "member",
    [
        {},
        {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"},
        {"kty": "RSA"},
        {"kty": "RSA", "n": 1, "e": "AQAB"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "OKP", "crv": "X25519", "x": "AA"},
        {"kty": ["RSA"]},
        {"kty": None, "kid": "a"},
    ],
    ids=str,
)
def test_unusable_members_of_a_jwks_are_skipped(member: dict[str, Any]) -> None:
    assert jwk_key(member, tuple(auth.FAMILIES)) is None


def test_keys_of_a_jwks_for_other_uses_are_skipped() -> None:
    good = jwk("RS256", kid="a")
    assert jwk_key(good, ("RS256",))
    for more in (
        {"use": "enc"},
        {"alg": "RS512"},
        {"alg": "none"},
        {"kid": 1},
        {"key_ops": ["encrypt"]},
        {"d": "x"},
        {"key_ops": 1},
    ):
        assert jwk_key(good | more, ("RS256",)) is None, more
    assert jwk_key(good, ("ES256", "HS256")) is None


def test_a_key_is_used_only_for_the_algorithms_of_its_curve() -> None:
    key = jwk_key(jwk("ES384"), ("ES256", "ES384", "ES512"))
    assert key is not None and key.algorithms == ("ES384",)
    key = jwk_key(jwk("RS256"), ("RS256", "RS512"))
    assert key is not None and key.algorithms == ("RS256", "RS512")
    key = jwk_key(jwk("RS256", alg="RS512"), ("RS256", "RS512"))
    assert key is not None and key.algorithms == ("RS512",)


# ── several keys, several issuers, passes ─────────────────────────────────────────────────────────────────────────────


def test_every_secret_in_use_is_tried_and_no_other() -> None:
    """During a rotation tokens of the old and of the new secret are accepted."""
    old, new = secret_key(b"o" * 32, ("HS256",)), secret_key(b"n" * 32, ("HS256",))
    keys = VerificationKeys((new, old))
    for key in (old, new):
        assert verify(token(key), keys, time.time()).id == "anna"
        assert verify(token(key, {"kid": "any"}), keys, time.time()).id == "anna"
    assert refused(token(secret_key(b"x" * 32, ("HS256",))), keys)


def test_a_file_may_hold_several_public_keys() -> None:
    one, two = pem(private_key("ES256")), pem(rsa.generate_private_key(65537, 2048))
    with pytest.raises(BadKey):
        public_keys(one + two, ("ES256",))
    other = ec.generate_private_key(ec.SECP256R1())
    keys = VerificationKeys(tuple(public_keys(one + b"\n" + pem(other), ("ES256",))))
    assert verify(token(private("ES256")), keys, time.time()).id == "anna"
    assert verify(token(VerificationKey(("ES256",), other)), keys, time.time()).id == "anna"
    assert refused(token(VerificationKey(("ES256",), ec.generate_private_key(ec.SECP256R1()))), keys)


@given(st.sampled_from(["a", "b", None, "c"]), st.sampled_from(["a", "b", None]))
def test_the_keys_of_an_issuer_verify_only_tokens_that_name_it(named: str | None, signer: str | None) -> None:
    """Whoever signs: the token's iss chooses the keys, and only those are tried. None: the keys of no issuer."""
    secrets = {one: secret_key(str(one).encode() * 32, ("HS256",)) for one in ("a", "b", None)}
    others = {one: VerificationKeys((secrets[one],), one) for one in ("a", "b")}
    keys = VerificationKeys((secrets[None],), others=others)
    text = token(secrets[signer], iss=... if named is None else named)
    assert refused(text, keys) if signer != (None if named == "c" else named) else verify(text, keys, time.time())


def test_a_pass_names_a_user_rooms_and_an_end() -> None:
    now_s = int(time.time())
    found = verify_pass(token(role=..., rooms=["ticket:42"], exp=now_s + 60, iat=now_s), KEYS, now_s)
    assert (found.sub, found.rooms, found.expires_s, found.issued_s) == ("anna", {"ticket:42"}, now_s + 60, now_s)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"rooms": ...}, "AUTH_TOKEN_INVALID"),
        ({"rooms": []}, "AUTH_TOKEN_INVALID"),
        ({"rooms": "ticket:42"}, "AUTH_TOKEN_INVALID"),
        ({"rooms": ["ticket:42", 1]}, "AUTH_TOKEN_INVALID"),
        ({"rooms": ["r"] * 201}, "AUTH_TOKEN_INVALID"),
        ({"exp": ...}, "AUTH_TOKEN_INVALID"),
        ({"sub": ...}, "AUTH_TOKEN_INVALID"),
        ({"role": "boss"}, "AUTH_TOKEN_INVALID"),
        ({"aud": "somebody"}, "AUTH_TOKEN_INVALID"),
        ({"typ": "refresh"}, "AUTH_TOKEN_INVALID"),
        ({"exp": 1_000_000_000}, "AUTH_TOKEN_EXPIRED"),
    ],
)
def test_an_invalid_pass_is_refused(change: dict[str, Any], why: str) -> None:
    text = token(**{"rooms": ["ticket:42"], "role": ..., **change})
    with pytest.raises(RtError) as caught:
        verify_pass(text, KEYS, time.time())
    assert caught.value.code == why


def test_a_pass_opens_no_connection() -> None:
    assert code(token(rooms=["ticket:42"])) == "AUTH_TOKEN_INVALID"
    anybody = VerificationKeys((HS,), claims=claim_map({}, {"*": "customer"}))
    assert code(token(role=..., rooms=["ticket:42"]), anybody) == "AUTH_TOKEN_INVALID"
