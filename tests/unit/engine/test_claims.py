"""Where claims stand and what role names mean, as tables and for any paths."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insightdesk_rt.engine.claims import ClaimMap, claim_map, find_claim, placed_claims, strongest_role

ROLES = {"manager": "admin", "support": "agent", "client": "customer"}


@pytest.mark.parametrize(
    ("claims", "path", "found"),
    [
        ({"sub": "a"}, "sub", "a"),
        ({"sub": "a"}, "role", None),
        ({"realm_access": {"roles": ["x"]}}, "realm_access.roles", ["x"]),
        ({"realm_access": {"roles": ["x"]}}, "realm_access.names", None),
        ({"realm_access": "x"}, "realm_access.roles", None),
        ({"https://desk.example.com/roles": ["x"]}, "https://desk.example.com/roles", ["x"]),
        ({"resource_access": {"desk.example.com": {"roles": 1}}}, "resource_access.desk.example.com.roles", 1),
        ({"a.b": 1, "a": {"b": 2}}, "a.b", 1),
        ({"a": {"b": {"c": 3}}, "a.b": {"d": 4}}, "a.b.c", 3),
        ({"a": None}, "a", None),
        ({"a": {"": 1}}, "a.", 1),
    ],
)
def test_a_path_leads_to_a_claim(claims: dict[str, Any], path: str, found: Any) -> None:
    """A claim's own name, dots and all, comes before a path into nested claims."""
    assert find_claim(claims, path) == found


@pytest.mark.parametrize(
    ("value", "role"),
    [
        ("support", "agent"),
        (["client", "support"], "agent"),
        (["client", "manager", "support"], "admin"),
        (["unknown", "client"], "customer"),
        (["unknown"], None),
        ("admin", None),
        (["*"], None),
        ([], None),
        (None, None),
        (17, None),
        ([["manager"], {"manager": 1}, 1], None),
        ({"manager": 1}, None),
    ],
)
def test_the_strongest_role_of_the_table_counts(value: Any, role: str | None) -> None:
    assert strongest_role(value, claim_map({}, ROLES).roles) == role  # type: ignore[arg-type]


def test_a_star_is_the_role_of_every_other_token() -> None:
    roles: Any = {**ROLES, "*": "customer"}
    for value in (None, "unknown", [], ["*"]):
        assert strongest_role(value, roles) == "customer"
    assert strongest_role(["unknown", "support"], roles) == "agent"
    assert strongest_role("support", {"*": "admin", "support": "agent"}) == "agent", "a name comes before the star"


def test_without_a_table_the_names_are_our_own() -> None:
    for role in ("customer", "agent", "admin"):
        assert strongest_role(role, ClaimMap().roles) == role


@given(
    st.dictionaries(
        st.sampled_from(["user", "role", "team", "name", "email", "session"]),
        st.from_regex(r"[ab]+(\.[ab]+){0,3}", fullmatch=True),
    ),
    st.sampled_from(["agent", "admin", "customer"]),
)
def test_a_claim_is_found_at_its_path(paths: dict[Any, str], role: str) -> None:
    """For each path alone: two paths that lead into each other cannot both be written."""
    where = claim_map(paths, ROLES)  # type: ignore[arg-type]
    for use in where.paths:
        made = placed_claims({use: role}, where)
        found = find_claim(made, where.paths[use])
        assert (strongest_role(found, where.roles) if use == "role" else found) == role


def test_a_role_without_a_name_cannot_be_placed() -> None:
    with pytest.raises(ValueError, match="no name for the role admin"):
        placed_claims({"role": "admin"}, claim_map({}, {"support": "agent", "*": "admin"}))
