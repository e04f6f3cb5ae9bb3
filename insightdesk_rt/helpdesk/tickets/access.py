"""Who may read a ticket: by our own rules, by the host's Python check, or by what its back end answers.

Our rules: an admin may read every ticket. An agent may read those of their team and those without a team (somebody must
take them), or all tickets with `agent_access = "all"`. A customer may read tickets that they requested or watch. Nobody
may read a ticket that does not exist. Being assignee or watcher opens nothing to an agent of another team; giving the
ticket to that team does. Where the ids of customers and staff are separate, `requesterId` and `customerWatchers` are
customers, and `watchers` are staff.

With `access` (a Python check) or `access_url` (a hook) our rules do not count. With both, both must allow it.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Literal, Protocol

from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import User, UserKey, team_room, user_room
from insightdesk_rt.engine.seldom import Seldom
from insightdesk_rt.helpdesk.tickets.settings import TicketSettings
from insightdesk_rt.helpdesk.tickets.store import AGENTS, LIFE, Facts, TicketStore

log = logging.getLogger(__name__)

HOST_DEADLINE_S = 5.0  # the host's check may ask its own database, but a client is waiting
UNCHECKED = "Access to the ticket cannot be checked now; try again."


class MayRead(Protocol):
    @property
    def of_host(self) -> bool:
        """Whether it is the host's own check, whose result may depend on anything, so it must be called each time."""
        ...

    def opened_by(self, user: User) -> Collection[str]:
        """Return the grants that may open a ticket to the user, by the names in `TicketStore.right`."""
        ...

    async def may_read(self, user: User, ticket_id: str) -> bool:
        """Raises RtError UNAVAILABLE if access cannot be checked now, INTERNAL if the check itself failed."""
        ...

    def forget(self, user_key: str = "", ticket_id: str = "") -> None:
        """Forget answers about a user ("": any) and a ticket ("": any), because access may have changed."""
        ...

    def ended(self) -> Collection[tuple[UserKey, str]]:
        """Return users and tickets about which the check must be asked again now, because its answer has expired."""
        ...


class AccessUnknown(Exception):
    """The back end did not say whether the user may read the ticket."""


class AccessQuestions(Protocol):
    """Asks the back end. Implemented in backend/hooks/access.py."""

    async def may_read(self, user: User, ticket_id: str) -> bool:
        """Raises AccessUnknown."""
        ...

    def forget(self, user_key: str = "", ticket_id: str = "") -> None: ...

    def ended(self) -> Collection[tuple[UserKey, str]]: ...


class RemembersNothing:
    """The part of MayRead for checks that keep no answers."""

    def forget(self, user_key: str = "", ticket_id: str = "") -> None:
        return

    def ended(self) -> Collection[tuple[UserKey, str]]:
        return ()


class TicketAccess(RemembersNothing):
    """Our own rules, by the facts in Valkey."""

    of_host = False

    def __init__(self, tickets: TicketStore, agent_access: str = "team") -> None:
        self._tickets = tickets
        self._agents_see_all = agent_access == "all"

    def opened_by(self, user: User) -> Collection[str]:
        if user.role == "admin" or (user.role == "agent" and self._agents_see_all):
            return (LIFE,)
        if user.role == "agent":
            return (AGENTS, team_room(user.team_id))
        return (user_room(user.key),)  # the grant has the same name as the room

    async def may_read(self, user: User, ticket_id: str) -> bool:
        facts = await self._tickets.facts(ticket_id)
        return facts is not None and allowed(user, facts, self._agents_see_all)


def allowed(user: User, ticket: Facts, agents_see_all: bool) -> bool:
    """Return whether the user may read the ticket. An unknown role may not."""
    if user.role == "admin":
        return True
    if user.role == "agent":
        return agents_see_all or ticket.teamId is None or ticket.teamId == user.team_id
    watchers = ticket.customerWatchers if user.separate_ids else ticket.watchers
    return user.role == "customer" and (user.id == ticket.requesterId or user.id in watchers)


class HostAccess(RemembersNothing):
    """The host's own check, which is not trusted to behave: only True allows, and any failure denies."""

    of_host = True

    def __init__(self, check: Callable[[User, str], bool | Awaitable[bool]]) -> None:
        self._check = check
        self._seldom = Seldom(log)

    def opened_by(self, user: User) -> Collection[str]:
        """Only the host knows since when the user has access; this server knows since when the ticket exists."""
        return (LIFE,)

    async def may_read(self, user: User, ticket_id: str) -> bool:
        """Raises RtError INTERNAL if the check raises or takes longer than HOST_DEADLINE_S.

        A check that is not a coroutine runs on the event loop, so it must not wait for anything.
        """
        try:
            async with asyncio.timeout(HOST_DEADLINE_S):
                answer = self._check(user, ticket_id)
                if inspect.isawaitable(answer):
                    answer = await answer
        except RtError:
            raise
        except Exception as failed:
            # The check runs for each member of the staff and each event: a broken one would fill the log.
            place = traceback.extract_tb(failed.__traceback__)[-1]
            why, at = f"{type(failed).__name__}: {failed}", f"{place.filename}:{place.lineno}"
            self._seldom.say(logging.ERROR, "the host's access check failed", at, why=why, at=at)
            raise RtError("INTERNAL") from None
        return answer is True


class AskedAccess:
    """What the back end answers. `plugin`, the host's Python check, must allow it as well, and is asked first.

    `when_down` decides while the back end does not answer: nobody may read, our own rules decide, or everybody may.
    """

    of_host = True

    def __init__(
        self, rules: TicketAccess, when_down: Literal["closed", "rules", "open"], plugin: HostAccess | None = None
    ) -> None:
        self._rules = rules
        self._when_down = when_down
        self._plugin = plugin
        self.questions: AccessQuestions | None = None  # connected when the node has built its hooks

    def opened_by(self, user: User) -> Collection[str]:
        """Only the back end knows since when the user has access."""
        return (LIFE,)

    async def may_read(self, user: User, ticket_id: str) -> bool:
        """Raises RtError INTERNAL if the back end does not answer, unless `when_down` says otherwise."""
        if self._plugin is not None and not await self._plugin.may_read(user, ticket_id):
            return False
        try:
            if self.questions is None:
                raise AccessUnknown
            return await self.questions.may_read(user, ticket_id)
        except AccessUnknown:
            if self._when_down == "rules":
                return await self._rules.may_read(user, ticket_id)
            if self._when_down == "open":
                return True
            raise RtError("INTERNAL", UNCHECKED, ticketId=ticket_id) from None

    def forget(self, user_key: str = "", ticket_id: str = "") -> None:
        if self.questions is not None:
            self.questions.forget(user_key, ticket_id)

    def ended(self) -> Collection[tuple[UserKey, str]]:
        return self.questions.ended() if self.questions is not None else ()


def find_factory(spec: str) -> Callable[[TicketStore, Any], Any]:
    """Return the object that `package.module:factory` names, without calling it. Raises ValueError, in one line."""
    module_name, colon, name = spec.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"access: {spec!r} is not of the form package.module:factory")
    try:
        factory: Callable[[TicketStore, Any], Any] = getattr(importlib.import_module(module_name), name)
    except AttributeError:
        raise ValueError(f"access: {module_name} has no {name}") from None
    except Exception as why:  # a module of the host may raise anything while it is imported
        raise ValueError(f"access: cannot import {module_name}: {why}") from None
    return factory


def load_access(settings: TicketSettings, tickets: TicketStore, all_settings: Any) -> MayRead:
    """Return the check that decides who may read a ticket: ours, or the host's by `access`, `access_url` or both.

    The host's check is what `factory(tickets, all_settings)` returns: an object with `may_read(user, ticket_id)`, plain
    or async. Raises ValueError, in one line, for a setting that cannot be used.
    """
    rules = TicketAccess(tickets, settings.agent_access)
    plugin = _plugin(settings.access, tickets, all_settings) if settings.access else None
    return AskedAccess(rules, settings.access_down, plugin) if settings.access_url else plugin or rules


def _plugin(spec: str, tickets: TicketStore, all_settings: Any) -> HostAccess:
    factory = find_factory(spec)
    try:
        made = factory(tickets, all_settings)
    except Exception as why:
        raise ValueError(f"access: {spec} failed: {type(why).__name__}: {why}") from why
    check = getattr(made, "may_read", None)
    if not callable(check):
        raise ValueError(f"access: what {spec} returned has no may_read(user, ticket_id)")
    return HostAccess(check)
