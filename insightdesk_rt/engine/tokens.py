"""Verifies tokens (JWTs): returns the user a token speaks for, or raises one of three errors.

Pure: text, keys and the time in, a User out. PyJWT computes the signatures. Everything around them is checked here,
because PyJWT accepts `exp` as text or as a number of 400 digits, the last of two equal JSON keys, and secrets of 5
bytes, and raises errors that are not its own. The order of the checks:

    size → three parts → header (no duplicate keys, nothing critical) → issuer → a key of the algorithm's family
         → signature → claims (types, lengths, times)

The keys of one issuer verify only tokens that name this issuer. A key serves the algorithms of one family only, so a
token cannot choose how a key is used (RFC 8725 3.1). An HS256 token costs 0.45 of what `jwt.decode` takes, because keys
are prepared once; that is a twentieth of a connect. There is no cache of verified tokens: it would help only when a
client joins its second namespace, and each revocation would have to search it.
"""

from __future__ import annotations

import json  # not wire/json: only here must two equal keys be an error, and msgspec has no hook for that
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal, NoReturn, get_args

import jwt
from jwt.algorithms import get_default_algorithms
from msgspec import Meta, Struct

from insightdesk_rt.engine.claims import ClaimMap, ClaimUse, claim_map, find_claim, strongest_role
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.ids import SESSION, TEAM, USER, IdKind, is_name
from insightdesk_rt.engine.model import Role, TeamId, User, UserId, UserKeys
from insightdesk_rt.engine.secret import Secret, SecretUrl
from insightdesk_rt.engine.settings import Help, Names, SettingsPart

# algorithm → family; a family is what one key may be used for
FAMILIES = {
    "HS256": "HS", "HS384": "HS", "HS512": "HS",
    "RS256": "RS", "RS384": "RS", "RS512": "RS",
    "PS256": "PS", "PS384": "PS", "PS512": "PS",
    "ES256": "ES", "ES384": "ES", "ES512": "ES",
    "EdDSA": "Ed",
}  # fmt: skip
CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}  # RFC 7518 3.4
MIN_SECRET_BYTES = 32  # RFC 7518 3.2: at least as long as the hash
MIN_RSA_BITS = 2048  # RFC 7518 3.3
MAX_TOKEN_CHARS = 8192  # real tokens have 300 to 2,000; a longer text is refused before it is split
MAX_LIFE_S = 86_400  # a connection asks for its token again after a day, however long the token lives
SKEW_S = 60  # how far an issuer's clock may be ahead of ours; a token from the near future harms nobody
MAX_TIME_S = 1 << 53  # the largest integer that JSON numbers hold exactly
MILLISECONDS = 100_000_000_000  # as seconds the year 5138, as milliseconds 1973: a larger time is in milliseconds
MAX_NAME = 256
PEM_END = b"-----END PUBLIC KEY-----"
MAX_EMAIL = 320  # RFC 5321: 64 + @ + 255
ACCESS_TYPES = {"jwt", "at+jwt", "application/at+jwt", "access", "bearer"}  # RFC 9068 2.1, and what Keycloak writes
ROLES = frozenset(get_args(Role))
MAX_PASS_ROOMS = 200  # as many tickets as one call may open

_ALGORITHMS = {name: algorithm for name, algorithm in get_default_algorithms().items() if name in FAMILIES}

Notice = Callable[[str], None]


class TokenIssuer(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of `jwt_issuers`. Tokens whose `iss` is `issuer` are verified by these fields only."""

    issuer: str
    jwks_url: str = ""
    public_key_file: str = ""
    secret_files: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ("RS256",)
    audience: str = ""
    claims: dict[ClaimUse, str] = {}
    roles: dict[str, Role] = {}


class TokenSettings(SettingsPart, frozen=True):
    """Who may sign tokens, what a token must contain, and the secrets that nodes share."""

    data_dir: Annotated[str, Help("folder for the secret and the embedded Valkey")] = "./data"
    cluster_secret: Annotated[
        Secret, Help("secret shared by the nodes, 32 bytes or more; empty: the tokens' secret")
    ] = Secret()
    cluster_secret_file: Annotated[str, Help("file that holds cluster_secret")] = ""
    jwt_secret: Annotated[Secret, Help("secret for HS tokens, 32 bytes or more")] = Secret()
    jwt_secret_file: Annotated[str, Help("file that holds jwt_secret; with neither set, one is made in data_dir")] = ""
    jwt_algorithms: Annotated[Names, Help("algorithms a token may be signed with")] = ("HS256",)
    jwt_secret_files: Annotated[Names, Help("files of further secrets whose tokens are accepted, for rotation")] = ()
    jwt_public_key_file: Annotated[str, Help("public keys (PEM) for RS, PS, ES or EdDSA tokens")] = ""
    jwks_url: Annotated[SecretUrl, Help("URL at which the issuer publishes its public keys (JWKS)")] = SecretUrl()
    jwt_issuer: Annotated[str, Help("iss that a token must have; empty: any or none")] = ""
    jwt_audience: Annotated[str, Help("aud that a token must have; empty: none")] = ""
    jwt_claims: Annotated[
        dict[ClaimUse, str], Help("paths of the claims user, role, team, name, email and session")
    ] = {}
    jwt_roles: Annotated[dict[str, Role], Help('role names of tokens and their roles here; "*" for all others')] = {}
    jwt_issuers: Annotated[
        tuple[TokenIssuer, ...], Help("further issuers, each with its own keys, audience, claims and roles")
    ] = ()
    jwt_leeway_s: Annotated[
        int, Meta(ge=0, le=30), Help("seconds for which a token is still accepted after its exp")
    ] = 0
    user_ids: Annotated[
        Literal["shared", "separate"], Help("separate: a customer and an agent with the same id are two people")
    ] = "shared"

    @property
    def user_keys(self) -> UserKeys:
        return UserKeys(self.user_ids == "separate")

    @property
    def claim_map(self) -> ClaimMap:
        """Where the claims of tokens stand that no entry of `jwt_issuers` is for."""
        return claim_map(self.jwt_claims, self.jwt_roles)

    @property
    def families(self) -> set[str]:
        """The families of the allowed algorithms."""
        return {FAMILIES[name] for name in self.jwt_algorithms if name in FAMILIES}


class BadToken(RtError):
    """AUTH_TOKEN_INVALID. `why` is for our log and contains nothing of the token.

    With `tell` the client receives it too. That is for mistakes in how a token is written down, which everybody makes
    once and which reveal nothing about keys or issuers.
    """

    def __init__(self, why: str, *, tell: bool = False) -> None:
        super().__init__("AUTH_TOKEN_INVALID", f"The token is not valid: {why}." if tell else None)
        self.why = why


class UnknownKey(BadToken):
    """The token names a key that is not known; its issuer may have begun to use it a moment ago."""

    def __init__(self, why: str, issuer: str) -> None:
        super().__init__(why)
        self.issuer = issuer  # whose keys were searched: that of VerificationKeys


class BadKey(ValueError):
    """A key that cannot be used. The text says why, in one line."""


class VerificationKey(Struct, frozen=True):
    """A key prepared for PyJWT, with the algorithms of one family that it may be used for.

    A key without `kid` is tried for tokens of any kid. `origin` names the setting that it comes from.
    """

    algorithms: tuple[str, ...]
    material: Any
    kid: str = ""
    origin: str = ""


class VerificationKeys(Struct, frozen=True):
    """Everything that a token is checked against.

    `published`: algorithms for which the issuer may publish new keys at any time. `others`: what tokens of other
    issuers are checked against, by their `iss`.
    """

    keys: tuple[VerificationKey, ...]
    issuer: str = ""
    audience: str = ""
    leeway_s: int = 0
    published: tuple[str, ...] = ()
    separate_ids: bool = False  # customers and staff are numbered apart
    claims: ClaimMap = ClaimMap()
    others: Mapping[str, VerificationKeys] = {}


class Pass(Struct, frozen=True):
    """A verified pass: until `expires_s` the user `sub` may join these rooms.

    `role` is "" unless the pass has a claim of that name; `session_id` likewise. `issued_s` is 0 without `iat`.
    """

    sub: str
    rooms: frozenset[str]
    expires_s: int
    issued_s: int = 0
    role: str = ""
    session_id: str = ""


def secret_key(secret: bytes, allowed: tuple[str, ...]) -> VerificationKey:
    """Return the key of HS tokens. Raises BadKey if the secret is too short, or is a public key."""
    algorithms = _of_family("HS", allowed)
    if len(secret) < MIN_SECRET_BYTES:
        raise BadKey(f"the secret is shorter than {MIN_SECRET_BYTES} bytes; make one with: openssl rand -hex 32")
    return VerificationKey(algorithms, _prepared(algorithms[0], secret))


def public_keys(pem: bytes, allowed: tuple[str, ...]) -> list[VerificationKey]:
    """Return the keys of a file that holds one or several PEM blocks. Raises BadKey if one of them cannot be used."""
    blocks = [block + PEM_END for block in pem.split(PEM_END)[:-1]]
    return [public_key(block.lstrip(), allowed) for block in blocks or [pem]]


def public_key(pem: bytes, allowed: tuple[str, ...]) -> VerificationKey:
    """Return the key in a PEM text, for those of the allowed algorithms that it can serve. Raises BadKey."""
    asymmetric = [name for name in allowed if FAMILIES[name] != "HS"]
    fitting = [(name, material) for name in asymmetric if (material := _try_pem(name, pem)) is not None]
    if not fitting:
        raise BadKey("it is not a public key (PEM) for " + " or ".join(asymmetric))
    return _public(fitting)


def jwk_key(jwk: Mapping[str, Any], allowed: tuple[str, ...]) -> VerificationKey | None:
    """Return the key that a member of a JWKS describes; None if it is for another purpose, or cannot be used.

    Symmetric and private keys are ignored: they do not belong into a published set.
    """
    kid, use, ops = jwk.get("kid", ""), jwk.get("use", "sig"), jwk.get("key_ops", ["verify"])
    if not isinstance(kid, str) or use != "sig" or not isinstance(ops, list) or "verify" not in ops or "d" in jwk:
        return None
    families = {"RSA": ("RS", "PS"), "EC": ("ES",), "OKP": ("Ed",)}.get(str(jwk.get("kty")), ())
    names = [name for name in allowed if FAMILIES[name] in families and jwk.get("alg", name) == name]
    try:
        fitting = [(name, material) for name in names if (material := _try_jwk(name, jwk)) is not None]
        return _public(fitting, kid)
    except BadKey:
        return None


def sign(claims: Mapping[str, Any], key: VerificationKey, headers: Mapping[str, Any] | None = None) -> str:
    """Return a token of these claims, signed with the key's first algorithm."""
    return jwt.encode(dict(claims), key.material, key.algorithms[0], dict(headers or {}))


def verify(token: object, keys: VerificationKeys, now_s: float, notice: Notice = lambda what: None) -> User:
    """Return the user that the token speaks for. `expires_s` is when its connection must end: within a day.

    Spaces around the token and `Bearer ` before it, which people copy along, are ignored. `notice` is called with a
    text about each oddity of a token that is accepted. Raises RtError AUTH_TOKEN_MISSING, AUTH_TOKEN_EXPIRED (nothing
    else is wrong), or AUTH_TOKEN_INVALID as BadToken, which says why.
    """
    with _only_refusals():
        claims, its = _verified(token, keys)
        return _user(claims, its, int(now_s), notice)


def verify_pass(token: object, keys: VerificationKeys, now_s: float) -> Pass:
    """Return what a pass allows. Raises as `verify`.

    A pass is a token with the claim `rooms`, a list of names of rooms. Its user is the claim `sub`, whatever
    `jwt_claims` says, because a back end signs passes, not an identity provider.
    """
    with _only_refusals():
        claims, its = _verified(token, keys)
        return _pass(claims, its, int(now_s))


@contextmanager
def _only_refusals() -> Iterator[None]:
    """Turn every other exception into BadToken: a hostile token must harm nobody but its sender."""
    try:
        yield
    except RtError:
        raise
    except Exception as why:
        raise BadToken(f"unexpected {type(why).__name__}") from None


def unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header and the claims as they are written, for people to read. Nothing may be decided by them.

    Raises BadToken if they cannot be read.
    """
    parts = _parts(_bare(token))
    return _object(_unpacked(parts[0])), _object(_unpacked(parts[1]))


def keys_of_issuer(claims: Mapping[str, Any], keys: VerificationKeys) -> VerificationKeys:
    """Return what a token with these claims is checked against: that of its `iss`, or else of no particular issuer.

    The claims are not verified yet. That is safe: each issuer's keys verify only tokens that name this issuer.
    """
    issuer = claims.get("iss")
    return keys.others.get(issuer, keys) if isinstance(issuer, str) else keys


def keys_for(header: dict[str, Any], keys: VerificationKeys) -> list[VerificationKey]:
    """Return the keys that may have signed a token with this header. Raises BadToken.

    The header never says where keys come from: jku, x5u, jwk and x5c are ignored.
    """
    kind, alg, kid = header.get("typ", "JWT"), header.get("alg"), header.get("kid")
    if not isinstance(alg, str):
        raise BadToken("no algorithm")
    if {"crit", "b64", "zip", "enc"} & header.keys():  # RFC 7515 4.1.11: understand it or refuse; we understand none
        raise BadToken("the header asks for an extension")
    if not (isinstance(kind, str) and kind.lower() in ACCESS_TYPES) or "cty" in header:
        raise BadToken("not an access token by its header")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= MAX_NAME):
        raise BadToken("kid is not a short text")
    fitting = [key for key in keys.keys if alg in key.algorithms]
    if not fitting and alg not in keys.published:
        raise BadToken("the algorithm is not allowed")
    without_kid = [key for key in fitting if not key.kid]
    named = [key for key in fitting if kid and key.kid == kid] or without_kid or ([] if kid else fitting)
    if not named:
        raise UnknownKey("no key has its kid", keys.issuer)
    if len(named) > 1 and named != without_kid:
        raise BadToken("several keys fit and the token names none")
    return named  # several secrets or public keys without kid: all that are in use during a rotation


def signing_key_of(token: str, keys: list[VerificationKey]) -> VerificationKey | None:
    """Return which of the keys has signed the token, None if none has. Raises BadToken if it cannot be read."""
    parts = _parts(_bare(token))
    return _signer(parts, _object(_unpacked(parts[0])), keys)


# ── signature ───────────────────────────────────────────────────────────────────────────────────────────────────────


_BLANKS = " \t\r\n"


def _bare(token: str) -> str:
    """Return the token without what surrounds it in an Authorization header, a file or a shell's output."""
    if len(token) > MAX_TOKEN_CHARS + 64:  # it will be refused; do not copy it
        return token
    token = token.strip(_BLANKS)
    return token[6:].strip(_BLANKS) if token[:6].lower() == "bearer" and token[6:7] in _BLANKS else token


def _parts(token: str) -> list[bytes]:
    if len(token) > MAX_TOKEN_CHARS or not token.isascii():
        raise BadToken(f"it is longer than {MAX_TOKEN_CHARS} characters, or not ASCII")
    if token[:1] in ("'", '"'):
        raise BadToken("it has quotes around it", tell=True)
    parts = token.encode().split(b".")
    if len(parts) != 3:  # an encrypted token has five
        raise BadToken(f"it has {min(len(parts), 9)} parts between dots, not three", tell=True)
    return parts


def _verified(token: object, keys: VerificationKeys) -> tuple[dict[str, Any], VerificationKeys]:
    """Return the claims of a token with a valid signature, and what they are to be checked against."""
    if not isinstance(token, str) or not (token := _bare(token)):
        raise RtError("AUTH_TOKEN_MISSING")
    parts = _parts(token)
    header = _object(_unpacked(parts[0]))
    claims = None
    if keys.others:
        claims = _object(_unpacked(parts[1]))
        keys = keys_of_issuer(claims, keys)
    if _signer(parts, header, keys_for(header, keys)) is None:
        raise BadToken("the signature is wrong")
    return (_object(_unpacked(parts[1])) if claims is None else claims), keys


def _signer(parts: list[bytes], header: dict[str, Any], keys: list[VerificationKey]) -> VerificationKey | None:
    algorithm, signed, signature = _ALGORITHMS[header["alg"]], parts[0] + b"." + parts[1], _unpacked(parts[2])
    return next((key for key in keys if algorithm.verify(signed, key.material, signature)), None)


def _unpacked(part: bytes) -> bytes:
    try:
        raw = urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except ValueError:  # binascii.Error is
        raise BadToken("not base64url") from None
    # b64decode ignores characters that are not in its alphabet; encoding again shows them (RFC 4648 3.3 and 3.5)
    if urlsafe_b64encode(raw).rstrip(b"=") != part:
        raise BadToken("not base64url")
    return raw


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = _decoder.decode(text.decode())
    except (ValueError, RecursionError):
        raise BadToken("not JSON") from None
    if not isinstance(value, dict):
        raise BadToken("not a JSON object")
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # RFC 8725 2.4: another reader would take the first where we take the last
        raise BadToken("a key occurs twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise BadToken(f"{name} is not JSON")


_decoder = json.JSONDecoder(
    object_pairs_hook=_without_doubles, parse_constant=_no_constant
)  # loads makes one each time


# ── claims ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _user(claims: dict[str, Any], keys: VerificationKeys, now_s: int, notice: Notice) -> User:
    paths = keys.claims.paths
    role = strongest_role(find_claim(claims, paths["role"]), keys.claims.roles)
    if role is None:
        raise BadToken(f"{paths['role']} is none of " + ", ".join(sorted(keys.claims.roles)))
    if isinstance(claims.get("rooms"), list):
        raise BadToken("it is a pass for rooms, not an access token", tell=True)
    issued_s, expires_s = _check_use(claims, keys, now_s, notice)
    user = User(
        UserId(_id(claims, paths["user"], USER)),
        role,
        _text(claims, paths["name"], MAX_NAME),
        _text(claims, paths["email"], MAX_EMAIL),
        TeamId(_id(claims, paths["team"], TEAM, needed=False)),
        _id(claims, paths["session"], SESSION, needed=False),
        expires_s,
        issued_s,
        keys.separate_ids,
    )
    if user.expires_s <= now_s:
        raise RtError("AUTH_TOKEN_EXPIRED")
    return user


def _pass(claims: dict[str, Any], keys: VerificationKeys, now_s: int) -> Pass:
    rooms, role = claims.get("rooms"), claims.get("role", "")
    if not isinstance(rooms, list):
        raise BadToken("it has no rooms, so it is not a pass", tell=True)
    if not 0 < len(rooms) <= MAX_PASS_ROOMS or not all(isinstance(room, str) and room for room in rooms):
        raise BadToken(f"rooms is not a list of 1 to {MAX_PASS_ROOMS} names", tell=True)
    if role and role not in ROLES:
        raise BadToken("role is none of " + ", ".join(sorted(ROLES)), tell=True)
    issued_s, expires_s = _check_use(claims, keys, now_s, lambda what: None)
    sub, session = _id(claims, "sub", USER), _id(claims, "sessionId", SESSION, needed=False)
    if expires_s <= now_s:
        raise RtError("AUTH_TOKEN_EXPIRED", "The pass has expired.")
    return Pass(sub, frozenset(rooms), expires_s, issued_s, role, session)


def _check_use(claims: dict[str, Any], keys: VerificationKeys, now_s: int, notice: Notice) -> tuple[int, int]:
    """Check type, issuer, audience and beginning. Returns when the token was issued (0: unknown) and when it ends.

    The end includes the leeway and is at most a day from now. The caller compares it with the time, last of all.
    """
    for kind in ("typ", "use", "token_use"):
        said = claims.get(kind, "access")
        if not isinstance(said, str) or said.lower() not in ACCESS_TYPES:
            raise BadToken(f"not an access token by its {kind}")
    _check_parties(claims, keys)
    issued_s = _time(claims, "iat") or 0
    begins_s = max(issued_s, _time(claims, "nbf") or 0)
    if begins_s > MILLISECONDS:
        raise BadToken("its iat or nbf is in milliseconds; it must be seconds", tell=True)
    if begins_s > now_s + SKEW_S:
        raise BadToken(f"its iat or nbf is more than {SKEW_S} s in the future")
    expires_s = _time(claims, "exp")
    if expires_s is None:
        raise BadToken("it has no exp")
    if expires_s > MILLISECONDS:
        notice("its exp is after the year 5138; is it in milliseconds? It must be seconds")
    return issued_s, min(expires_s + keys.leeway_s, now_s + MAX_LIFE_S)


def _check_parties(claims: dict[str, Any], keys: VerificationKeys) -> None:
    if keys.issuer and claims.get("iss") != keys.issuer:
        raise BadToken("it is of another issuer")
    audience = claims.get("aud")
    if audience is None and not keys.audience:
        return
    named = audience if isinstance(audience, list) else [audience]
    # RFC 7519 4.1.3: a service that `aud` does not name must refuse. Without jwt_audience, every aud is another one's.
    if not all(isinstance(one, str) for one in named) or not keys.audience or keys.audience not in named:
        raise BadToken("it is for another audience")


def _time(claims: dict[str, Any], name: str) -> int | None:
    """Return a NumericDate in whole seconds, None if there is none.

    It may have a fraction (RFC 7519 2): then the token ends with its last whole second and begins with its first.
    """
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    # type(), not isinstance(): True is an int. 1e400 is read as infinity.
    if not (type(value) is int or type(value) is float) or not 0 < value < MAX_TIME_S:
        raise BadToken(f"{name} is not a time in seconds")
    return math.floor(value) if name == "exp" else math.ceil(value)


def _text(claims: dict[str, Any], name: str, longest: int) -> str:
    value = find_claim(claims, name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > longest or not is_name(value):
        raise BadToken(f"{name} is not a text of at most {longest} characters without control and format characters")
    return value


def _id(claims: dict[str, Any], name: str, kind: IdKind, *, needed: bool = True) -> str:
    """Return an id that follows the rule of its kind (ids.py), as in events and the admin API; "" for none."""
    value = find_claim(claims, name)
    if not needed and value in (None, ""):
        return ""
    if type(value) in (int, float):
        raise BadToken(f'{name} is a number; it must be text, as in "17"', tell=True)
    try:
        return kind.check(value)
    except ValueError as why:
        raise BadToken(f"{name}: {why}") from None


# ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_family(family: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    algorithms = tuple(name for name in allowed if FAMILIES[name] == family)
    if not algorithms:
        raise BadKey(f"no {family} algorithm is allowed")
    return algorithms


def _prepared(name: str, text: bytes) -> Any:
    try:
        return _ALGORITHMS[name].prepare_key(text)
    except Exception as why:
        raise BadKey(str(why).splitlines()[0]) from None


def _try_pem(name: str, pem: bytes) -> Any:
    try:
        material = _ALGORITHMS[name].prepare_key(pem)
    except Exception:  # PyJWT raises ValueError, TypeError, UnicodeDecodeError and its own
        return None
    return material if _fits(name, material) else None


def _try_jwk(name: str, jwk: Mapping[str, Any]) -> Any:
    try:
        material = _ALGORITHMS[name].from_jwk(dict(jwk))
    except Exception:  # as above, and binascii.Error
        return None
    return material if _fits(name, material) else None


def _fits(name: str, material: Any) -> bool:
    return name not in CURVES or material.curve.name == CURVES[name]


def _public(fitting: list[tuple[str, Any]], kid: str = "") -> VerificationKey:
    if not fitting:
        raise BadKey("it fits no algorithm that is allowed")
    material = fitting[0][1]
    if hasattr(material, "private_bytes"):
        raise BadKey("it is a private key; the server needs the public one only")
    if hasattr(material, "public_numbers") and not hasattr(material, "curve") and material.key_size < MIN_RSA_BITS:
        raise BadKey(f"it is an RSA key of less than {MIN_RSA_BITS} bits")
    return VerificationKey(tuple(name for name, _ in fitting), material, kid)
