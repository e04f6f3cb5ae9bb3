"""The types with which each part of the server declares its settings, beside the code that uses them.

    class OutboxLimits(SettingsPart, frozen=True):
        max_outbox_bytes: Annotated[BytesLimit, Help("unsent bytes at which a client is closed; 0: never")] = 1_048_576

The name of a field is the name of the setting on the command line, in the environment and in the file; its default is
the only place where that default stands. A field without `Help` is not a setting of its own: it takes the value of the
setting of that name, if another part declares one, and otherwise keeps its default.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, TypeVar, get_type_hints

import msgspec
from msgspec import Meta, Struct

from insightdesk_rt.engine.model import UserKeys
from insightdesk_rt.engine.rate_limits import or_any
from insightdesk_rt.engine.secret import Secret

WHEEL_STEP_MS = 50  # the precision of heartbeats; a timeout must be several steps

_ZERO_IS_NO_LIMIT = "zero is no limit"

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Ms = Annotated[int, Meta(ge=2 * WHEEL_STEP_MS, le=3_600_000)]
Seconds = Annotated[int, Meta(ge=1, le=86_400)]
SecondsOrNever = Annotated[int, Meta(ge=0, le=86_400)]
Names = tuple[str, ...]
# Limits for which 0 means that there is none. A part sees a number that nothing reaches instead (rate_limits.ANY).
CountLimit = Annotated[int, Meta(ge=0, le=1_000_000_000, extra={_ZERO_IS_NO_LIMIT: True})]
BytesLimit = Annotated[int, Meta(ge=0, le=100_000_000, extra={_ZERO_IS_NO_LIMIT: True})]
SecondsLimit = Annotated[int, Meta(ge=0, le=86_400, extra={_ZERO_IS_NO_LIMIT: True})]


def Help(text: str) -> Meta:
    """Make a field a setting; `text` says what it is for, in the documentation and in `--help`."""
    return Meta(description=text)


class SettingsPart(Struct, frozen=True):
    """The settings of one part of the server."""

    def __post_init__(self) -> None:
        """Turn a limit of 0 into a number that nothing reaches, and the text of a secret into a secret."""
        limits, secrets = _special_fields(type(self))
        for name in limits:
            msgspec.structs.force_setattr(self, name, or_any(getattr(self, name)))
        for name, kind in secrets.items():
            value = getattr(self, name)
            if isinstance(value, str):
                msgspec.structs.force_setattr(self, name, kind(value))


@cache
def _special_fields(part: type[SettingsPart]) -> tuple[tuple[str, ...], dict[str, type[Secret]]]:
    """Return the names of the limits for which 0 means none, and of the secrets with their types."""
    limits, secrets = [], {}
    for name, hint in get_type_hints(part, include_extras=True).items():
        metas = getattr(hint, "__metadata__", ())
        kind: Any = hint.__origin__ if metas else hint
        if any(isinstance(meta, Meta) and meta.extra and _ZERO_IS_NO_LIMIT in meta.extra for meta in metas):
            limits.append(name)
        elif isinstance(kind, type) and issubclass(kind, Secret):
            secrets[name] = kind
    return tuple(limits), secrets


def has_no_limit(part: SettingsPart, name: str) -> bool:
    """Return whether the setting is a limit that is switched off, which is written as 0."""
    return name in _special_fields(type(part))[0] and getattr(part, name) == or_any(0)


P = TypeVar("P", bound=SettingsPart)


class FeatureSettings(Struct, frozen=True):
    """The settings of the features, by the class in which a feature declares them.

    `by_name` has every setting of the server by its name, for functions of the host (the setting `access`).
    """

    parts: dict[type[SettingsPart], SettingsPart] = {}
    by_name: dict[str, Any] = {}
    user_keys: UserKeys = UserKeys()

    def of(self, kind: type[P]) -> P:
        """Return the settings of that class, with its defaults if nothing was set."""
        part = self.parts.get(kind)
        return part if isinstance(part, kind) else kind()
