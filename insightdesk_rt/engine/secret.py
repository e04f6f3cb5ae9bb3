"""Types for settings that contain a secret, which is hidden when they are printed.

    url = SecretUrl("valkey://desk:p%40ss@db:6379/0?password=x")
    f"{url}"        # valkey://desk:[hidden]@db:6379/0?password=[hidden]
    url.reveal()    # the text itself, for the place that connects

A URL is shown rebuilt from its parts. If the parts are not certain, because an `@`, `/`, `#` or `?` in a password that
was not percent-encoded may be its end, only the scheme is shown, and `url_fault` says what is wrong.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qsl, urlsplit

HIDDEN = "[hidden]"
ENCODE = "percent-encode the password (@ is %40, / is %2F, # is %23, ? is %3F, % is %25)"

# Options in the query of a Valkey URL that are not secret: numbers, booleans, paths.
_OPEN_OPTIONS = frozenset({"db", "ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"})
_HIDDEN_OPTIONS = frozenset(
    {"client_name", "password", "sentinel_password", "sentinel_username", "ssl_ca_data", "ssl_ciphers", "username"}
)
_SEVERAL_HOSTS = ("+sentinel", "+cluster")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}(?=:)")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BAD_CHARACTER = re.compile(r"[\x00-\x20\x7f]")
_ADDRESS = re.compile(r"[A-Za-z0-9.-]{1,253}:[0-9]{1,5}")
_OPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,40}")
_URL_IN_TEXT = re.compile(r"\S*://\S*")


class Secret:
    """A text that str(), repr() and format() hide. An empty one is falsy."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __str__(self) -> str:
        return HIDDEN if self._text else ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


class SecretUrl(Secret):
    """A URL that may contain a password. Everything else is shown."""

    __slots__ = ()

    def __str__(self) -> str:
        return shown_url(self._text)


def split_url(text: str) -> SplitResult | None:
    """Return the parts of a URL; None for a text that is not a URL or has an invalid port.

    A URL of Sentinels or of a cluster has several hosts: read them from `netloc`, not from `hostname` and `port`.
    """
    try:
        url = urlsplit(text)
        several = url.scheme.endswith(_SEVERAL_HOSTS)
        hosts = url.netloc.rpartition("@")[2].split(",") if several else [url.netloc]
        for host in hosts:
            part = urlsplit(f"//{host}")
            part.port  # noqa: B018  raises for a port that is none
            if several and not part.hostname:
                return None
        return url
    except ValueError:
        return None


def url_fault(text: str) -> str:
    """Return why it is not certain where a URL's password ends, and what to do; "" if it is certain."""
    url = split_url(text)
    if url is None:
        return ENCODE if "@" in text else "it is not a URL"
    user, _, host = url.netloc.rpartition("@")
    if "@" in user or "#" in text or _BAD_ESCAPE.search(url.netloc) or _BAD_CHARACTER.search(text):
        return ENCODE
    if url.scheme == "unix" and not url.netloc:  # a path, in which an @ has no special meaning
        return ""
    if url.scheme == "unix" and host:
        return ENCODE if "@" in text else "it is not a URL"
    return ENCODE if "@" in url.path + url.query else ""


def shown_url(text: str) -> str:
    """Return a URL for printing: without its password and the values of its query."""
    scheme = _SCHEME.match(text)
    if not text or _ADDRESS.fullmatch(text):
        return text
    if scheme is None:
        return HIDDEN
    url = urlsplit(text) if not url_fault(text) else None
    if url is None or (url.scheme != "unix" and not url.hostname):
        return f"{scheme.group()}://{HIDDEN}"
    user, at, host = url.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    # a user without a password is often a password without its colon
    shown_user = f"{name}:{HIDDEN}" if colon else HIDDEN
    path = url.path if url.scheme == "unix" or not url.path.startswith("//") else HIDDEN
    web = url.scheme in ("http", "https")
    query = "&".join(_shown_option(part, web) for part in url.query.split("&") if part)
    slashes = "//" if text[scheme.end() :].startswith("://") else ""
    return f"{scheme.group()}:{slashes}{shown_user + at if at else ''}{host}{path}" + (f"?{query}" if query else "")


def shown_text(text: str) -> str:
    """Return a text with every URL replaced by its `shown_url`."""
    return _URL_IN_TEXT.sub(lambda found: shown_url(found.group()), text)


def printable(text: str, longest: int = 200) -> str:
    """Return the text, cut to `longest` characters, with terminal control characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:longest])


def options_of(url: SplitResult) -> list[str]:
    """Return the names in a URL's query."""
    return [name for name, _ in parse_qsl(url.query, keep_blank_values=True)]


def _shown_option(part: str, web: bool) -> str:
    """Return an option of a query, with its value if that is not secret, and its name if it is certainly a name."""
    name, equals, value = part.partition("=")
    if not equals or not (_OPTION.fullmatch(name) if web else name in _OPEN_OPTIONS | _HIDDEN_OPTIONS):
        return HIDDEN
    open_value = not web and name in _OPEN_OPTIONS and (name != "db" or value.isdigit())
    return part if open_value else f"{name}={HIDDEN if value else ''}"
