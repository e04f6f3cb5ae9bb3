"""All error codes that a client, a back end or an admin may receive, and all reasons why a connection ends.

Handlers raise `RtError("FORBIDDEN")`; the table decides HTTP status, websocket close code, whether the same request may
be tried again, and the log level. There are two wire errors: the peer broke the protocol, or sent too much.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple


class ErrorKind(NamedTuple):
    http: int
    close: int  # websocket close code on the native protocol; 44xx: do not reconnect with this token
    retry: bool
    text: str


ERRORS: dict[str, ErrorKind] = {
    "AUTH_TOKEN_MISSING": ErrorKind(401, 4401, False, "No token was given."),
    "AUTH_TOKEN_EXPIRED": ErrorKind(401, 4401, False, "The token has expired."),
    "AUTH_TOKEN_INVALID": ErrorKind(401, 4401, False, "The token is not valid."),
    "AUTH_SESSION_REVOKED": ErrorKind(401, 4401, False, "The session was revoked."),
    "FORBIDDEN": ErrorKind(403, 4403, False, "You may not do this."),
    "BAD_REQUEST": ErrorKind(400, 4400, False, "The request is not as documented."),
    "INVALID_STATUS": ErrorKind(400, 4400, False, "The status must be online, busy or away."),
    "UNKNOWN_EVENT": ErrorKind(400, 4400, False, "There is no such event in this namespace."),
    "NOT_FOUND": ErrorKind(404, 4404, False, "Not found."),
    "METHOD_NOT_ALLOWED": ErrorKind(405, 4405, False, "The method is not allowed here."),
    "CONFLICT": ErrorKind(409, 4409, False, "Somebody else was first, or the state does not allow it."),
    "PAYLOAD_TOO_LARGE": ErrorKind(413, 4413, False, "The payload is too large."),
    "UNSUPPORTED_MEDIA_TYPE": ErrorKind(415, 4400, False, "The body must be application/json."),
    "TOO_MANY_ROOMS": ErrorKind(429, 4429, False, "This socket is in as many rooms as it may be."),
    "TOO_MANY_CONNECTIONS": ErrorKind(429, 4429, True, "There are too many connections of this user or address."),
    "RATE_LIMITED": ErrorKind(429, 4429, True, "Too many requests."),
    "INTERNAL": ErrorKind(500, 4500, True, "The server failed to answer; the failure was logged."),
    "UNAVAILABLE": ErrorKind(503, 4503, True, "The server cannot reach its store; try again with the same id."),
    "DRAINING": ErrorKind(503, 4503, True, "This node is shutting down; connect again."),
}


class RtError(Exception):
    """Refuses a request. `fields` are added to the error object beside code and message."""

    def __init__(self, code: str, message: str | None = None, **fields: Any) -> None:
        self.code = code
        self.kind = ERRORS[code]
        self.message = message if message is not None else self.kind.text
        self.fields = fields
        super().__init__(code, self.message)

    @property
    def log_level(self) -> int:
        """The log level of a failed request: debug for UNAVAILABLE.

        An outage affects all requests, and `engine/cluster/outage.py` logs it once with a count. A line per request
        would fill the log for as long as Valkey is unreachable or full.
        """
        return logging.DEBUG if self.code == "UNAVAILABLE" else logging.WARNING

    def as_dict(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, **self.fields}


def used_before(field: str, what: str) -> RtError:
    """Return the CONFLICT for a request whose id, in `field`, already belongs to another one of its kind."""
    return RtError("CONFLICT", f"{field}: another {what} has this id; use a new one.", field=field)


class ConfigError(Exception):
    """The configuration is wrong. The text has one line per problem and may be shown unchanged."""


class WireError(Exception):
    """The peer's bytes are wrong. `close` is the RFC 6455 7.4.1 code its websocket is closed with.

    `limit_name` is the setting that was exceeded, if there is one.
    """

    close = 1002
    # The messages that were complete before the wrong bytes. They are processed before the connection is closed.
    messages: Sequence[Any] = ()

    def __init__(self, why: str, close: int | None = None, *, limit_name: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.limit_name = limit_name
        if close is not None:
            self.close = close


class TooBig(WireError):
    """The peer sent more than a limit allows (HTTP 413, websocket 1009)."""

    close = 1009


class CloseReason(Enum):
    """Why a client's connection ended. The values are those of Socket.IO's `disconnect` event where it has one."""

    TRANSPORT_CLOSE = "transport close"
    TRANSPORT_ERROR = "transport error"
    PING_TIMEOUT = "ping timeout"
    PARSE_ERROR = "parse error"
    TOO_BIG = "payload too big"
    # Engine.IO's close packet. It does not mean that the client leaves for good: stock clients on long-polling send it
    # whenever their engine closes, also before they reconnect (Polling.doClose). A client that leaves for good sends
    # DISCONNECT first.
    CLIENT_CLOSE = "client close"
    CLIENT_LEFT = "client namespace disconnect"
    SERVER_LEFT = "server namespace disconnect"
    CONNECT_TIMEOUT = "connect timeout"
    CONNECT_FLOOD = "too many connects"
    SLOW_CONSUMER = "slow_consumer"
    TOKEN_EXPIRED = "token expired"
    REVOKED = "revoked"
    KICKED = "kicked"
    BLOCKED = "blocked"
    SENT_AWAY = "sent away"  # by an admin; the client should reconnect
    REPLACED = "replaced"
    UNAVAILABLE = "unavailable"
    DRAINED = "drained"  # by an admin, while the node goes on; the client should reconnect
    SHUTDOWN = "server shutting down"

    @property
    def close_code(self) -> int:
        """Close code on the native websocket; Socket.IO websockets get a close frame without one."""
        return CLOSE_CODES.get(self, 1000)

    @property
    def may_resume(self) -> bool:
        """Is the session kept for a client that reconnects? Not if it was ended on purpose."""
        return self not in ENDED_ON_PURPOSE


CLOSE_CODES = {
    CloseReason.PARSE_ERROR: 1002,
    CloseReason.TOO_BIG: 1009,
    CloseReason.PING_TIMEOUT: 4300,
    CloseReason.SLOW_CONSUMER: 4301,
    CloseReason.UNAVAILABLE: 4302,
    CloseReason.REPLACED: 4303,
    CloseReason.SHUTDOWN: 1012,  # "service restart": the client should reconnect
    CloseReason.SENT_AWAY: 1012,
    CloseReason.DRAINED: 1012,
    CloseReason.CONNECT_TIMEOUT: 4408,
    CloseReason.CONNECT_FLOOD: 4429,
    CloseReason.TOKEN_EXPIRED: 4401,
    CloseReason.REVOKED: 4401,
    CloseReason.KICKED: 4403,
    CloseReason.BLOCKED: 4403,
}

ENDED_ON_PURPOSE = frozenset(
    {
        CloseReason.CLIENT_LEFT,
        CloseReason.SERVER_LEFT,
        CloseReason.PARSE_ERROR,
        CloseReason.CONNECT_TIMEOUT,
        CloseReason.CONNECT_FLOOD,
        CloseReason.REVOKED,
        CloseReason.KICKED,
        CloseReason.BLOCKED,
    }
)
