"""The console: the web pages of the admin port, and signing in to them.

    GET    /                    the console, or the page to sign in
    GET    /console/{file}      its scripts and styles
    GET    /api/v1/session      who is signed in
    POST   /api/v1/session      sign in: a key or a token for a cookie
    DELETE /api/v1/session      sign out

The pages get all data from the API. The files contain no data and need no cookie. There is no inline script or style,
and the policy lets a page load nothing from other places. sessions.py has the cookie.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from insightdesk_rt.api.handler import Admin, Handler, operation
from insightdesk_rt.api.keys_and_scopes import Principal, Scope
from insightdesk_rt.api.openapi import Route
from insightdesk_rt.api.operation import Answer
from insightdesk_rt.engine.errors import RtError
from insightdesk_rt.engine.model import UserKeys
from insightdesk_rt.engine.wire.texts import WORDS
from insightdesk_rt.operations.console.sessions import COOKIE, SESSION_S, Sessions, of_our_page

FOLDER = Path(__file__).parent / "static"
TYPES = {
    ".js": "text/javascript; charset=UTF-8",
    ".css": "text/css; charset=UTF-8",
    ".html": "text/html; charset=UTF-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
NO_SPACE = r"^\S+\Z"
WORDS[NO_SPACE] = "without white space"
MAX_CREDENTIAL = 8_192  # characters; Tornado accepts headers up to 64 KB, and usual tokens have 1 or 2 KB


class ConsoleSession(Struct):
    """`via`: the kind of credential, from the Authorization header or a cookie. `separateIds`: as in `user_ids`."""

    name: str
    scope: Scope
    via: Literal["key", "token", "cookie"]
    separateIds: bool | UnsetType = UNSET


class SignIn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    credential: Annotated[
        str, Meta(min_length=1, max_length=MAX_CREDENTIAL, pattern=NO_SPACE, description="a key, or an admin's token")
    ]


class SessionHandler(Handler):
    sessions: Sessions
    keys: UserKeys

    async def identified(self) -> Principal | None:
        """Return nobody for a sign-in: only its body contains the credential."""
        return None if self.request.method == "POST" else await super().identified()

    def check(self, scope: Scope | None) -> None:
        super().check(scope)
        if scope is None:
            self.check_host()
            if self.refused is not None:
                raise self.refused
            if not of_our_page(self.request.method, self.request.headers):
                raise RtError("FORBIDDEN", "This is for the console's own pages; send a key as Authorization instead.")

    @operation("viewer", answer=ConsoleSession)
    async def get(self) -> Answer:
        """Return who is signed in, and their scope."""
        assert self.who is not None
        return Answer(ConsoleSession(self.who.name, self.who.scope, self.via, self.keys.separate or UNSET))

    @operation(
        None,
        body=SignIn,
        answer=ConsoleSession,
        errors=("BAD_REQUEST", "AUTH_TOKEN_EXPIRED", "AUTH_TOKEN_INVALID", "FORBIDDEN", "RATE_LIMITED"),
    )
    async def post(self, body: SignIn) -> Answer:
        """Sign in to the console: the answer sets its cookie. For pages of this port only."""
        who = self.admin.access.holder(body.credential, self.admin.peer(self.request).address)
        if not who.may("viewer"):
            raise RtError("FORBIDDEN", "This key may only push, so there is nothing that the console could show.")
        secret = await self.sessions.open(body.credential)
        self.set_cookie(COOKIE, secret, max_age=SESSION_S, **self._attributes())
        return Answer(ConsoleSession(who.name, who.scope, "cookie"))

    @operation("viewer", answer=ConsoleSession)
    async def delete(self) -> Answer:
        """Sign out: the cookie becomes invalid on every node."""
        assert self.who is not None
        self.clear_cookie(COOKIE, **self._attributes())
        if self.via == "cookie":
            await self.sessions.close(self.get_cookie(COOKIE) or "")
        return Answer(ConsoleSession(self.who.name, self.who.scope, self.via))

    def _attributes(self) -> dict[str, Any]:
        return {
            "path": "/",
            "httponly": True,
            "samesite": "Strict",
            "secure": self.admin.peer(self.request).scheme == "https",
        }


class ConsoleFileHandler(Handler):
    """A file of the console. Browsers revalidate it each time and get 304 if it is unchanged."""

    SUPPORTED_METHODS: ClassVar[tuple[str, ...]] = ("GET", "HEAD")  # type: ignore[misc]

    async def identified(self) -> Principal | None:
        return None

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")

    @operation(None)
    async def get(self, name: str) -> None:
        """One of its files."""
        self.check_host()
        self.send_file(name)

    head = get

    def send_file(self, name: str) -> None:
        """Raises RtError NOT_FOUND."""
        if name not in files():
            raise RtError("NOT_FOUND", "There is no such path.")
        content, tag = files()[name]
        self.set_header("Content-Type", TYPES[Path(name).suffix])
        self.set_header("Etag", tag)
        if self.check_etag_header():
            self.clear_header("Content-Type")
            self.set_status(304)
            self.finish()
        else:
            self.finish(content)


class PageHandler(ConsoleFileHandler):
    async def identified(self) -> Principal | None:
        """Return the signed-in user; None if the session is invalid for any reason, so that they may sign in again."""
        try:
            return await Handler.identified(self)
        except RtError:
            return None

    @operation(None)
    async def get(self) -> None:
        """The console, or the page to sign in."""
        self.check_host()
        self.set_header("Vary", "Cookie")
        self.send_file("console.html" if self.who is not None else "login.html")

    head = get


@cache
def files() -> dict[str, tuple[bytes, str]]:
    """Return content and tag of every file, by its path in the folder."""
    found = {}
    for path in FOLDER.rglob("*"):
        if path.suffix in TYPES:
            content = path.read_bytes()
            found[path.relative_to(FOLDER).as_posix()] = content, f'"{sha256(content).hexdigest()[:32]}"'
    return found


def session_routes(admin: Admin, sessions: Sessions, keys: UserKeys = UserKeys()) -> list[Route]:
    """Return the routes of the API that the console signs in with."""
    return [(r"/api/v1/session", SessionHandler, {"admin": admin, "sessions": sessions, "keys": keys})]


def console_routes(admin: Admin) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Return the routes of the pages."""
    parts = {"admin": admin}
    return [(r"/", PageHandler, parts), (r"/console/([a-z/\-]+\.[a-z]+)", ConsoleFileHandler, parts)]
