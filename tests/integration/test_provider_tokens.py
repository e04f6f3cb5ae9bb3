"""Tokens in the shape of each provider are accepted with the configuration that docs/tokens.md shows for it.

The shapes are those of the providers' documentation; the keys are ours. The configuration is the text of the page. Only
the folder of the secret is another one, and what a provider publishes at its URL comes from a table.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from insightdesk_rt.app import config
from insightdesk_rt.app.cli.main import main
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.published_keys import PublishedKeys
from insightdesk_rt.engine.signing_keys import KeyRing
from insightdesk_rt.engine.tokens import secret_key, sign
from tests.support.aio import aio
from tests.support.tokens import jwk, private

PAGE = (Path(__file__).parents[2] / "docs" / "tokens.md").read_text(encoding="utf-8")
SECRET = "0123456789abcdef" * 4
TENANT = "9122040d-6c67-4c5b-b112-36a304b66dad"

KEYCLOAK: dict[str, Any] = {
    "jti": "trrtcc:312ee6",
    "iss": "https://id.example.com/realms/helpdesk",
    "aud": ["desk", "account"],
    "sub": "36fa0f91-f94d-4a0c-afed-6b7d952e47da",
    "typ": "Bearer",
    "azp": "desk-page",
    "session_state": "2a88c258-f73a-4103-b862-e1fbd8f4e04e",
    "acr": "1",
    "allowed-origins": ["https://desk.example.com"],
    "realm_access": {"roles": ["offline_access", "default-roles-helpdesk", "uma_authorization", "helpdesk-agent"]},
    "resource_access": {"account": {"roles": ["manage-account", "view-profile"]}},
    "scope": "openid email profile",
    "sid": "2a88c258-f73a-4103-b862-e1fbd8f4e04e",
    "email_verified": True,
    "name": "Jane Smith",
    "preferred_username": "janesmith",
    "given_name": "Jane",
    "family_name": "Smith",
    "email": "jane@example.com",
}
AUTH0: dict[str, Any] = {
    "iss": "https://example.eu.auth0.com/",
    "sub": "auth0|6553da60a54af58e29493993",
    "aud": ["https://desk.example.com/api", "https://example.eu.auth0.com/userinfo"],
    "azp": "K1AUPhZq8mRi0Q0pjhkfu1D7y6KjDQja",
    "scope": "openid profile email",
    "https://desk.example.com/roles": ["Support"],
    "https://desk.example.com/team": "berlin",
    "https://desk.example.com/name": "Jane Smith",
}
ENTRA: dict[str, Any] = {
    "aud": "6e74172b-be56-4843-9ff4-e66a39bb12e3",
    "iss": f"https://login.microsoftonline.com/{TENANT}/v2.0",
    "aio": "AXQAi/8IAAAAtAaZLo3ChMif6KOnttRB7eBq4",
    "azp": "1d4fa2b1-0000-4c5b-b112-36a304b66dad",
    "azpacr": "0",
    "name": "Jane Smith",
    "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474",
    "preferred_username": "jane@example.com",
    "rh": "I",
    "roles": ["Helpdesk.Agent", "Other.Reader"],
    "scp": "access_as_user",
    "sid": "55e1c3b0-7e4f-4d56-abd1-690222beff1a",
    "sub": "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ",
    "tid": TENANT,
    "uti": "fqiBqXLPj0eQa82S-IYFAA",
    "ver": "2.0",
}
FIREBASE: dict[str, Any] = {
    "iss": "https://securetoken.google.com/example-desk",
    "aud": "example-desk",
    "auth_time": int(time.time()) - 60,
    "user_id": "Xq2vZ8bWn0gq8Q3o1r5c7JpYk2B3",
    "sub": "Xq2vZ8bWn0gq8Q3o1r5c7JpYk2B3",
    "name": "Jane Smith",
    "picture": "https://example.com/jane.png",
    "email": "jane@example.com",
    "email_verified": True,
    "firebase": {"identities": {"email": ["jane@example.com"]}, "sign_in_provider": "password"},
    "deskRole": "agent",
    "deskTeam": "berlin",
}
DJANGO: dict[str, Any] = {
    "sub": "17",
    "name": "Jane Smith",
    "email": "jane@example.com",
    "groups": ["Newsletter", "Support agents"],
    "sid": "k3a9x2p0q8w7e6r5t4y3u2i1o0",
    "aud": "desk",
}
RAILS: dict[str, Any] = {
    "user": {"id": "17", "role": "support", "team": "berlin", "name": "Jane Smith"},
    "aud": "desk",
}
LARAVEL: dict[str, Any] = {
    "iss": "https://app.example.com",
    "aud": "desk",
    "sub": "17",
    "name": "Jane Smith",
    "roles": ["agent", "editor"],
    "team_id": "berlin",
}

# heading, claims, signature, expected id, role, team and session, and a change that must be refused
PUBLISHED, SHARED = "RS256", "HS256"
CASES = [
    ("Keycloak", KEYCLOAK, PUBLISHED, (KEYCLOAK["sub"], "agent", "", KEYCLOAK["sid"]), {"aud": "account"}),
    ("Auth0", AUTH0, PUBLISHED, (AUTH0["sub"], "agent", "berlin", ""), {"iss": "https://other.eu.auth0.com/"}),
    ("Microsoft Entra ID", ENTRA, PUBLISHED, (ENTRA["oid"], "agent", "", ENTRA["sid"]), {"roles": ["Other.Reader"]}),
    ("Firebase", FIREBASE, PUBLISHED, (FIREBASE["sub"], "agent", "berlin", ""), {"aud": "another-project"}),
    ("Django", DJANGO, SHARED, ("17", "agent", "", DJANGO["sid"]), {"sub": 17}),
    ("Rails", RAILS, SHARED, ("17", "agent", "berlin", ""), {"user": {**RAILS["user"], "role": "boss"}}),
    ("Laravel", LARAVEL, SHARED, ("17", "agent", "berlin", ""), {"roles": ["editor"]}),
]


def documented(heading: str, folder: Path) -> Path:
    """Return a file with the configuration below the heading; the secret's file is in the folder."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.search(r"```toml\n(.*?)```", section, re.DOTALL)
    assert found, heading
    (folder / "jwt_secret").write_text(SECRET)
    (folder / "jwt_secret").chmod(0o600)
    file = folder / "insightdesk-rt.toml"
    text = found[1].replace("/etc/insightdesk-rt/", f"{folder}/")
    file.write_text(f'data_dir = "{folder / "data"}"\n{text}', encoding="utf-8")
    return file


def signed(claims: dict[str, Any], how: str, **changed: Any) -> str:
    now = int(time.time())
    whole = {**claims, "iat": now, "nbf": now, "exp": now + 900, **changed}
    if how == SHARED:
        return sign(whole, secret_key(SECRET.encode(), ("HS256",)))
    return sign(whole, private("RS256"), {"kid": "k1", "typ": "JWT"})


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answer in place of the providers, which this machine cannot reach, and record the requests."""
    asked: list[str] = []

    async def get(self: PublishedKeys, url: str) -> bytes:
        asked.append(url)
        return json.dumps({"keys": [jwk("RS256", "k1", use="sig"), jwk("ES256", "k2", use="sig")]}).encode()

    monkeypatch.setattr(PublishedKeys, "_get", get)
    return asked


@pytest.mark.parametrize(("heading", "claims", "how", "expected", "wrong"), CASES, ids=[case[0] for case in CASES])
def test_a_providers_token_is_accepted_with_the_documented_configuration(
    heading: str, claims: dict[str, Any], how: str, expected: tuple[str, ...], wrong: dict[str, Any], tmp_path: Path
) -> None:
    loaded = config.load(["--config", str(documented(heading, tmp_path))], {})

    @aio
    async def body() -> None:
        ring = KeyRing(loaded.settings.tokens)
        await ring.start()
        user = ring.verify(signed(claims, how))
        assert (user.id, user.role, user.team_id, user.session_id) == expected
        if heading != "Rails":
            assert user.name == "Jane Smith" or "name" not in claims
        with pytest.raises(RtError, match="AUTH_TOKEN_INVALID"):
            ring.verify(signed(claims, how, **wrong))
        with pytest.raises(RtError, match="AUTH_TOKEN_EXPIRED"):
            ring.verify(signed(claims, how, exp=int(time.time()) - 1))
        await ring.close()

    body()


@pytest.mark.parametrize(("heading", "role"), [("Auth0", "customer"), ("Firebase", "customer"), ("Django", "customer")])
def test_a_token_without_a_role_is_a_customers_if_configured(heading: str, role: str, tmp_path: Path) -> None:
    loaded = config.load(["--config", str(documented(heading, tmp_path))], {})
    case = next(one for one in CASES if one[0] == heading)
    path = loaded.settings.tokens.jwt_claims["role"]

    @aio
    async def body() -> None:
        ring = KeyRing(loaded.settings.tokens)
        await ring.start()
        assert ring.verify(signed({name: one for name, one in case[1].items() if name != path}, case[2])).role == role
        await ring.close()

    body()


def test_several_issuers_have_separate_keys_claims_and_roles(
    tmp_path: Path, published: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the page's configuration; the server's own secret signs tokens without an issuer."""
    file = documented("Several issuers", tmp_path)
    loaded = config.load(["--config", str(file)], {})

    @aio
    async def body() -> None:
        ring = KeyRing(loaded.settings.tokens)
        await ring.start()
        assert sorted(published) == sorted(one.jwks_url for one in loaded.settings.tokens.jwt_issuers)
        assert ring.verify(signed(KEYCLOAK, PUBLISHED)).role == "agent"
        assert ring.verify(signed(FIREBASE, PUBLISHED)).role == "customer", "its role is no claim of this issuer"
        assert ring.verify(signed({"sub": "ann", "role": "admin"}, SHARED)).role == "admin"
        for claims, how in [
            (KEYCLOAK, SHARED),  # our secret cannot sign for Keycloak
            ({"sub": "ann", "role": "admin"}, PUBLISHED),  # nor can its keys for us
            ({**KEYCLOAK, "iss": FIREBASE["iss"]}, PUBLISHED),  # another issuer's audience
            ({**KEYCLOAK, "iss": "https://id.example.com/realms/helpdesk/"}, PUBLISHED),
        ]:
            with pytest.raises(RtError, match="AUTH_TOKEN_INVALID"):
                ring.verify(signed(claims, how))
        await ring.close()

    body()
    assert main(["token", "--config", str(file), "--explain", signed(KEYCLOAK, PUBLISHED)]) == 0
    said = capsys.readouterr().out
    assert "an entry of jwt_issuers" in said and "helpdesk-agent is agent" in said and "jwks_url with kid k1" in said


@pytest.mark.parametrize(
    ("claims", "how", "words"),
    [
        (KEYCLOAK, SHARED, ["2 key", "the algorithm is not allowed"]),
        ({**KEYCLOAK, "aud": "account"}, PUBLISHED, ["3 signature", "valid", "expected desk"]),
        ({**KEYCLOAK, "realm_access": {}}, PUBLISHED, ["realm_access.roles: not there", "none: no name in jwt_roles"]),
        ({"sub": "ann", "role": "boss"}, SHARED, ["no entry of jwt_issuers", 'role: "boss"']),
    ],
)
def test_explain_shows_each_step_up_to_the_one_that_fails(
    claims: dict[str, Any], how: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = documented("Several issuers", tmp_path)
    assert main(["token", "--config", str(file), "--explain", signed(claims, how)]) == 1
    said = capsys.readouterr()
    assert all(word in said.out for word in words), said.out
    assert "AUTH_TOKEN_INVALID" in said.err and len(said.err.splitlines()) == 1


def test_a_command_signs_a_token_that_the_documented_claims_accept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`token`, and every command for a running server, writes the facts into the claims of jwt_claims."""
    for heading in ("Django", "Rails", "Laravel"):
        folder = tmp_path / heading
        folder.mkdir()
        loaded = config.load(["--config", str(documented(heading, folder))], {})
        words = ["--sub", "ann", "--role", "agent", "--team", "berlin", "--name", "Ann"]
        assert main(["token", "--config", str(folder / "insightdesk-rt.toml"), *words]) == 0
        user = KeyRing(loaded.settings.tokens).verify(capsys.readouterr().out.strip())
        assert (user.id, user.role, user.team_id, user.name) == ("ann", "agent", "berlin", "Ann")
