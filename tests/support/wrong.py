"""Values that a JSON schema allows, and values that it does not: one of each way to be wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

# What may fit a pattern; one of them must.
TEXTS = ("a1", "0" * 20, "s" * 20, "wh_" + "0" * 16, "https://receiver.example/", "0-0", "2035-01-01T00:00:00Z")
OF_TYPE: dict[str, tuple[Any, ...]] = {
    "null": (None,),
    "boolean": (True,),
    "integer": (7,),
    "number": (7.5,),
    "string": ("text",),
    "array": ([],),
    "object": ({},),
}


class Schemas:
    """`document` is an OpenAPI description; its components are looked up."""

    def __init__(self, document: Schema) -> None:
        self._components: dict[str, Schema] = document["components"]["schemas"]

    def right(self, schema: Schema) -> Any:
        """Return a value that fits, the least one: without what is not required."""
        schema = self.resolved(schema)
        if "enum" in schema:
            return schema["enum"][0]
        kind = schema.get("type")
        if kind == "object":
            return {name: self.right(schema["properties"][name]) for name in schema.get("required", ())}
        if kind == "array":
            return [self.right(schema["items"]) for _ in range(schema.get("minItems", 0))]
        if kind in ("integer", "number"):
            return max(schema.get("minimum", 1), 1)
        if kind == "string":
            if schema.get("format") == "date-time":
                return TEXTS[-1]
            fitting = [text for text in TEXTS if _fits(text, schema)]
            assert fitting, schema
            return fitting[0]
        return True if kind == "boolean" else None

    def wrong(self, schema: Schema) -> Iterator[tuple[str, Any]]:
        """Yield what is wrong with it, and a value that does not fit."""
        kinds = [self.resolved(one) for one in self._kinds(schema)]
        types = {self._type(kind) for kind in kinds}
        if None in types:  # anything goes
            return
        for name, values in OF_TYPE.items():
            if name not in types and not (name == "integer" and "number" in types):
                yield from ((f"a value of type {name}", value) for value in values)
        if len(kinds) == 1 or {self._type(kind) for kind in kinds[1:]} == {"null"}:
            yield from self._out_of_bounds(kinds[0])

    def _out_of_bounds(self, schema: Schema) -> Iterator[tuple[str, Any]]:
        if "minimum" in schema:
            yield "too small", schema["minimum"] - 1
        if "maximum" in schema:
            yield "too large", schema["maximum"] + 1
        if schema.get("minLength"):
            yield "too short", ""
        if "maxLength" in schema:
            yield "too long", "a" * (schema["maxLength"] + 1)
        if "pattern" in schema:
            yield "beside the pattern", "\x00\n"
            if re.search(schema["pattern"], "  ") is None:
                yield "blank", "  "
        if schema.get("format") == "date-time":
            yield "no time", "tomorrow"
        if "enum" in schema:
            yield "not among those", "nonsense"
        if "maxItems" in schema:
            yield "too many", [self.right(schema.get("items", {}))] * (schema["maxItems"] + 1)

    def fields(self, schema: Schema) -> dict[str, Schema]:
        found: dict[str, Schema] = self.resolved(schema).get("properties", {})
        return found

    def resolved(self, schema: Schema) -> Schema:
        """Return a schema behind its references, of several kinds the first."""
        while True:
            if "$ref" in schema:
                schema = self._components[schema["$ref"].rpartition("/")[2]]
            elif "anyOf" in schema:
                schema = schema["anyOf"][0]
            else:
                return schema

    def _kinds(self, schema: Schema) -> list[Schema]:
        if "$ref" in schema:
            return self._kinds(self._components[schema["$ref"].rpartition("/")[2]])
        return [kind for one in schema["anyOf"] for kind in self._kinds(one)] if "anyOf" in schema else [schema]

    @staticmethod
    def _type(schema: Schema) -> str | None:
        if "enum" in schema:
            return "string"
        found: str | None = schema.get("type")
        return found


def _fits(text: str, schema: Schema) -> bool:
    long_enough = schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", 1 << 20)
    return long_enough and re.search(schema.get("pattern", ""), text) is not None
