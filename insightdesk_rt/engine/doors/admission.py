"""Admission: the one place that decides whether a request to the client port is accepted.

The fast path and Tornado's handlers both describe a request as a `RequestHead` and obey what `AdmissionRules.judge`
returns. `judge` is a pure function of the request, the time and the state it is given: it has no clock and no socket,
and changes nothing. So the fast path may call it and leave a refused request to Tornado, where it is judged again and
then counted (`AdmissionRules.count`).

The Origin is checked here, for polling and websockets alike, against one list: Tornado 6.6 no longer calls
`check_origin` for requests it takes for same-origin, and compares no scheme. A request without Origin comes from a
program that is not a browser, or from a page of the same origin, and is accepted: browsers add no credentials by
themselves that would be accepted here.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import Enum

from msgspec import Struct

from insightdesk_rt.engine.addresses import spelled
from insightdesk_rt.engine.doors.peers import RemotePeer
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.origins import comparable, is_loopback_host, is_loopback_page
from insightdesk_rt.engine.rate_limits import Cap, Windows, counted_as
from insightdesk_rt.engine.seldom import Seldom
from insightdesk_rt.engine.wire.engineio import (
    BAD_METHOD,
    BAD_REQUEST,
    BAD_VERSION,
    FORBIDDEN,
    UNKNOWN_SID,
    UNKNOWN_TRANSPORT,
    EngineRefusal,
    check_query,
)

log = logging.getLogger(__name__)

MAX_LINES = 20  # log lines a minute about refused origins; few servers have that many real ones by mistake
MAX_ORIGIN = 200  # characters of an origin that are logged
RETRY_AFTER_S = 5


class RequestHead(Struct, frozen=True, gc=False):
    """The parts of a request to the client port that admission needs.

    `namespace` is that of /rt/<namespace>, "" at /socket.io/. `upgrade`: the request asks for a websocket.
    `transport`, `sid` and `version` are Engine.IO's query parameters (`sid` is "" for a new client). `headers` is
    looked up with names in lower case.
    """

    method: str
    namespace: str
    upgrade: bool
    transport: str
    sid: str
    version: str
    query: str  # as it was written
    headers: Mapping[str, str]


class Accept(Enum):
    """An accepted request: of a new client, or of the session that its sid names."""

    NEW_CLIENT = "new client"
    SESSION = "session"


class Refusal(Struct, frozen=True):
    """A refused request, with its answer. It is counted under `code`. 0 s: no Retry-After header."""

    code: str
    status: int
    content_type: str
    body: str
    retry_after_s: int = 0


JSON, HTML, HTML_UTF8, TEXT = (
    "application/json",
    "text/html",
    "text/html; charset=UTF-8",
    "text/plain; charset=UTF-8",
)


def engine_refusal(why: EngineRefusal, *, upgrade: bool) -> Refusal:
    """Return the answer to a request to /socket.io/. Node answers a refused upgrade with the bare message and 400."""
    code = why.message.upper().replace(" ", "_")
    return Refusal(code, 400, HTML, why.message) if upgrade else Refusal(code, why.status, JSON, why.body)


def _client_refusal(error: RtError) -> Refusal:
    """Return the answer to a new client that the server does not accept now."""
    retry_after_s: int = error.fields.get("retryAfter", 0)
    return Refusal(error.code, error.kind.http, TEXT, error.message, retry_after_s)


OF_ENGINE = {
    (why, upgrade): engine_refusal(why, upgrade=upgrade)
    for why in (UNKNOWN_TRANSPORT, UNKNOWN_SID, BAD_METHOD, BAD_REQUEST, FORBIDDEN, BAD_VERSION)
    for upgrade in (False, True)
}
NATIVE_ORIGIN = Refusal("FORBIDDEN", 403, HTML_UTF8, "This page may not connect.")
BLOCKED = _client_refusal(RtError("FORBIDDEN", "This address is blocked."))
DRAINING = _client_refusal(RtError("DRAINING", retryAfter=RETRY_AFTER_S))
TOO_FAST = _client_refusal(RtError("RATE_LIMITED", "Too many new connections from this address.", retryAfter=1))
TOO_MANY = _client_refusal(RtError("TOO_MANY_CONNECTIONS", retryAfter=RETRY_AFTER_S))


class OriginPolicy:
    """Decides which pages may connect: same origin, listed origins, and with `loopback` pages of this machine.

    Listed origins are `scheme://host[:port]`, `null` or `file://`. "*" allows every page, and then no credentials are
    allowed. With `loopback`, pages of this machine are trusted while the server is called by a name of this machine;
    behind a proxy it is called by another name.
    """

    def __init__(self, allowed: Iterable[str] = (), loopback: bool = False) -> None:
        self.listed = tuple(allowed)
        self._allowed = frozenset(comparable(origin.lower()) for origin in self.listed)
        self._loopback = loopback
        self.any = "*" in self._allowed

    def allows(self, origin: str, scheme: str, host: str) -> bool:
        """Return whether a page may connect. `origin` is the header's value, "" if there is none.

        `scheme` and `host` are those of the request.
        """
        if not origin or self.any or origin in self._allowed:
            return True
        same = comparable(origin)
        if same in self._allowed or same == comparable(f"{scheme}://{host.lower()}"):
            return True
        return self._loopback and is_loopback_page(origin) and is_loopback_host(host)

    def headers(self, origin: str, allowed: bool) -> Mapping[str, str]:
        """Return the CORS headers of any answer. An origin is echoed only if it is allowed."""
        if self.any:
            return _ANY_ORIGIN
        if not origin or not allowed:
            return _VARY
        if origin == "null":  # shared by many pages, so it is given no credentials
            return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Vary": "Origin",
        }


_ANY_ORIGIN = {"Access-Control-Allow-Origin": "*"}
_VARY = {"Vary": "Origin"}


class AdmissionRules:
    """A node's rules for new connections, and the state they depend on.

    `accepting` is False while the node drains. `is_blocked` says whether an address is blocked by an admin.
    `addresses` counts the clients of each address. `connects`, if there is a limit, counts their new clients a second.
    """

    def __init__(
        self,
        origins: OriginPolicy,
        transports: tuple[str, ...],
        addresses: Cap,
        connects: Windows | None,
        is_blocked: Callable[[str], bool],
    ) -> None:
        self.origins = origins
        self.accepting = True
        self.refused: Counter[str] = Counter()  # requests that were refused, by code
        self._transports = transports
        self._addresses = addresses
        self._connects = connects
        self._is_blocked = is_blocked

    def judge(self, head: RequestHead, peer: RemotePeer, session: str | None, now_ms: int) -> Accept | Refusal:
        """Judge a request by its query and session, then by its page, then by the address of a new client.

        hot: once per request. `session` is the transport of the live session that `head.sid` names, None if there is
        none. Pure: the same request may be judged again.
        """
        if not head.namespace:
            origin = head.headers.get("origin", "")
            wrong = check_query(head, head.method, self._transports, session, head.upgrade, origin)
            if wrong is not None:
                return OF_ENGINE[wrong, head.upgrade]
        if not self.allows_page(head.headers, peer):
            return NATIVE_ORIGIN if head.namespace else OF_ENGINE[FORBIDDEN, head.upgrade]
        return Accept.SESSION if head.sid else self._new_client(peer.address, now_ms)

    def allows_page(self, headers: Mapping[str, str], peer: RemotePeer) -> bool:
        """Return whether the page that sent a request may connect; True without an Origin header."""
        origin = headers.get("origin", "")
        return not origin or self.origins.allows(origin, peer.scheme, headers.get("host", ""))

    def _new_client(self, address: str, now_ms: int) -> Accept | Refusal:
        if self._is_blocked(address):
            return BLOCKED
        if not self.accepting:
            return DRAINING
        key = counted_as(address)
        if self._connects is not None and self._connects.wait_ms(key, now_ms):
            return TOO_FAST
        return TOO_MANY if self._addresses.full(key) else Accept.NEW_CLIENT

    def count(self, verdict: Accept | Refusal, peer: RemotePeer, now_ms: int) -> None:
        """Count a verdict. Each request for a new client counts against the rate of its address, also if refused.

        Requests of a blocked address do not count, because they are refused anyway.
        """
        if isinstance(verdict, Refusal):
            self.refused[verdict.code] += 1
            asked_for_new = verdict.retry_after_s > 0
        else:
            asked_for_new = verdict is Accept.NEW_CLIENT
        if asked_for_new and self._connects is not None:
            self._connects.take(counted_as(peer.address), now_ms)


class RefusedPages:
    """Logs refused pages and the setting that would allow them, because browsers show their users only "CORS error".

    At most one line a minute for each origin, and a bounded number of origins, since anybody can invent them.
    """

    def __init__(self, listed: tuple[str, ...]) -> None:
        self._listed = listed
        self._seldom = Seldom(log, max_kinds=MAX_LINES)

    def report(self, headers: Mapping[str, str], peer: RemotePeer, sender: str) -> None:
        """`sender` is the address of the connection, a proxy's if there is one."""
        origin = headers.get("origin", "")[:MAX_ORIGIN]
        host = headers.get("host", "").lower()
        hint = "add it to allowed_origins if it is yours"
        if comparable(origin) in (comparable(f"http://{host}"), comparable(f"https://{host}")):
            proxy = spelled(sender)
            hint = f"its scheme differs: X-Forwarded-Proto is believed of trusted_proxies alone; this came from {proxy}"
        allowed = ",".join((f"{peer.scheme}://{host}", *self._listed))
        what = "a page may not connect: its origin is not allowed"
        self._seldom.say(logging.INFO, what, origin, origin=origin, allowed=allowed, hint=hint)
