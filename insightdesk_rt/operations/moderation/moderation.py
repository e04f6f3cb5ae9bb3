"""Bundles this node's moderation rules and keeps them in sync with the cluster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from insightdesk_rt.engine.cluster.node_calls import NodeCalls
from insightdesk_rt.engine.dispatch.calls import Calls as ClientCalls
from insightdesk_rt.engine.dispatch.dispatch import Admission
from insightdesk_rt.engine.hub.hub import Hub
from insightdesk_rt.engine.model import User
from insightdesk_rt.engine.transport.client_registry import ClientRegistry
from insightdesk_rt.operations.moderation.blocks_and_revocations import BlocksAndRevocations
from insightdesk_rt.operations.moderation.log_levels import LogLevels
from insightdesk_rt.operations.moderation.notices import Notices
from insightdesk_rt.operations.moderation.rates import Rates
from insightdesk_rt.operations.moderation.rule_store import RuleStore
from insightdesk_rt.operations.moderation.rules import Rules

TICK_MS = 1_000


class Moderation:
    """Created before there are clients, because it decides who may connect; `start`ed once the node calls exist.

    `now_s`: the time that all nodes share, in Unix seconds. `lost` returns nodes that count as dead and may still run.
    """

    def __init__(
        self,
        store: RuleStore,
        node_id: str,
        registry: ClientRegistry,
        hub: Hub,
        verify: Callable[[object], User],
        leads: Callable[[], bool],
        now_s: Callable[[], float],
        lost: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self.rules = Rules(store, now_s, lost)
        self.access = BlocksAndRevocations(self.rules, registry)
        self.notices = Notices(self.rules, hub, leads)
        self.levels = LogLevels(self.rules, node_id)
        self.rates: Rates
        self.admission = Admission(self.access.checked(verify), self.access.admit, self.notices.greet)

    async def start(self, calls: NodeCalls, client_calls: ClientCalls) -> None:
        """Load the rules in force, and follow changes from now on. Raises RtError UNAVAILABLE."""
        self.rates = Rates(self.rules, client_calls)
        self.rules.connect(calls)
        await self.rules.start()

    async def tick(self) -> None:
        """Every TICK_MS. Raises RtError UNAVAILABLE."""
        await self.rules.tick()
        await self.notices.tick()
