"""Where a token says who its user is, and what its role names mean here.

    where = claim_map({"role": "realm_access.roles"}, {"manager": "admin", "staff": "agent"})
    strongest_role(find_claim(claims, where.paths["role"]), where.roles)      # "admin"

Identity providers write the same facts in different places: Keycloak has a list of roles in `realm_access.roles`, Auth0
has claims whose names are URLs. The settings `jwt_claims` and `jwt_roles` say where to look and what the names mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

from msgspec import Struct

from insightdesk_rt.engine.model import Role

ClaimUse = Literal["user", "role", "team", "name", "email", "session"]

DEFAULT_PATHS: Mapping[ClaimUse, str] = MappingProxyType(
    {"user": "sub", "role": "role", "team": "teamId", "name": "name", "email": "email", "session": "sessionId"}
)
STRONGEST_FIRST: tuple[Role, ...] = ("admin", "agent", "customer")
OWN_ROLES: Mapping[str, Role] = MappingProxyType({role: role for role in STRONGEST_FIRST})
ANY_ROLE = "*"  # a key of jwt_roles: the role of a token that names no other role of the table
MAX_ROLES = 1_000  # names of one token that are looked at; a token has 8,192 characters


class ClaimMap(Struct, frozen=True):
    """The path of each claim, and the meaning of each role name. Made by `claim_map`."""

    paths: Mapping[ClaimUse, str] = DEFAULT_PATHS
    roles: Mapping[str, Role] = OWN_ROLES


def claim_map(paths: Mapping[ClaimUse, str], roles: Mapping[str, Role]) -> ClaimMap:
    """Return the map for the settings. Paths that are not set keep their default.

    With `roles`, only its names are roles: a provider's own role `admin` means nothing here unless the table has it.
    """
    return ClaimMap({**DEFAULT_PATHS, **paths}, roles or OWN_ROLES)


def find_claim(claims: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path, None if there is none.

    A claim's own name may contain dots ("https://desk.example.com/roles"), so the longest name that exists is tried
    first, then shorter ones.
    """
    if path in claims:
        return claims[path]
    for name, rest in _split(path):
        inner = claims.get(name)
        if isinstance(inner, Mapping) and (found := find_claim(inner, rest)) is not None:
            return found
    return None


def _split(path: str) -> Iterator[tuple[str, str]]:
    """Yield the ways to divide a path at a dot, the longest first part first."""
    at = path.rfind(".")
    while at > 0:
        yield path[:at], path[at + 1 :]
        at = path.rfind(".", 0, at)


def role_names(value: Any) -> list[str]:
    """Return the names in a role claim, which is a text or a list of texts. Other members of a list are ignored."""
    if isinstance(value, str):
        return [value]
    return [one for one in value[:MAX_ROLES] if isinstance(one, str)] if isinstance(value, list) else []


def strongest_role(value: Any, roles: Mapping[str, Role]) -> Role | None:
    """Return the strongest role that a role claim names: admin before agent before customer. None if it names none."""
    found = {roles[name] for name in role_names(value) if name in roles and name != ANY_ROLE}
    return next((role for role in STRONGEST_FIRST if role in found), roles.get(ANY_ROLE))


def placed_claims(facts: Mapping[ClaimUse, str], where: ClaimMap) -> dict[str, Any]:
    """Return claims that say these facts at the paths of the map: for tokens that this server's own commands sign.

    The role is written with the first name that the map gives it. Raises ValueError if the map gives it none.
    """
    made: dict[str, Any] = {}
    for use, text in facts.items():
        if use == "role":
            names = [name for name, role in where.roles.items() if role == text and name != ANY_ROLE]
            if not names:
                raise ValueError(f"jwt_roles has no name for the role {text}")
            text = names[0]
        path = where.paths[use]
        *folders, last = [path] if "://" in path else path.split(".")
        inner = made
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = text
    return made
