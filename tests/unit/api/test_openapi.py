"""The OpenAPI description is generated from the declarations: paths, parameters, bodies, answers, errors, names."""

from __future__ import annotations

import json
from typing import Annotated

from msgspec import Meta, Struct

from insightdesk_rt.api.handler import Handler, operation
from insightdesk_rt.api.openapi import openapi_routes, operations
from insightdesk_rt.api.operation import Answer, Change
from insightdesk_rt.api.paging import Page, Paged
from insightdesk_rt.engine.ids import TicketIdText
from tests.support.admin_port import a_port, make_admin
from tests.support.aio import aio


class Thing(Struct):
    id: str


class Find(Paged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ids: Annotated[list[TicketIdText], Meta(max_length=2, description="which")]


class Things(Handler):
    @operation("viewer", query=Find, answer=Page[Thing])
    async def get(self, find: Find) -> Answer:
        """Find things."""
        raise NotImplementedError


class OneThing(Handler):
    @operation("operator", body=Change, answer=Thing, statuses=(201,), errors=("CONFLICT",), action="thing.make")
    async def put(self, thing_id: TicketIdText, body: Change) -> Answer:
        """Make it.

        And keep it.
        """
        raise NotImplementedError


@aio
async def test_the_description_contains_the_declarations() -> None:
    admin = make_admin()
    routes = [("/api/v1/things", Things, {"admin": admin}), ("/api/v1/things/([^/]+)", OneThing, {"admin": admin})]
    routes += openapi_routes(admin, routes)
    assert [(path, method) for path, method, _ in operations(routes)] == [
        ("/api/v1/things", "get"),
        ("/api/v1/things/{thingId}", "put"),
        ("/api/v1/openapi.json", "get"),
    ]
    async with a_port(admin, routes) as port:
        document = (await port.ask("GET", "/api/v1/openapi.json", bearer=None)).json
    assert document["openapi"].startswith("3.1")
    get, put = document["paths"]["/api/v1/things"]["get"], document["paths"]["/api/v1/things/{thingId}"]["put"]
    assert (get["operationId"], get["summary"], get["x-scope"]) == ("getThings", "Find things.", "viewer")
    assert (put["operationId"], put["summary"], put["description"]) == ("putThingsThingId", "Make it.", "And keep it.")
    limit, cursor, ids = get["parameters"]
    assert limit["schema"]["maximum"] == 500 and not limit["required"] and cursor["name"] == "cursor"
    assert ids["required"] and ids["explode"] is False and ids["schema"]["maxItems"] == 2
    assert ids["schema"]["items"]["pattern"].endswith("$")
    (part,) = put["parameters"]
    assert (part["name"], part["in"], part["required"]) == ("thingId", "path", True)
    assert put["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Change"}
    assert sorted(put["responses"]) == ["201", "400", "401", "403", "409", "413", "415", "429", "503"]
    assert sorted(get["responses"]) == ["200", "400", "401", "403", "429", "503"]
    schemas = document["components"]["schemas"]
    assert schemas["Change"]["required"] == ["reason"] and not schemas["Change"]["additionalProperties"]
    refs = set(json.dumps(document).split('"$ref": "#/components/schemas/')[1:])
    assert {ref.partition('"')[0] for ref in refs} <= set(schemas)
