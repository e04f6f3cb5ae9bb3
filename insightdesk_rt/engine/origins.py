"""Origins of web pages (RFC 6454): which texts are valid, and which two are the same.

A browser writes an origin in one form: lower case, no default port, no path, names in ASCII. A text in another form can
never match, so the configuration refuses it and says what to write instead (`misfit`). Pages without an origin of their
own send `null` (files, sandboxed frames) or `file://` (Electron, Cordova).
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from insightdesk_rt.engine.addresses import parse_address

ANY = "*"
WITHOUT_HOST = ("null", "file://")
# Other programs than browsers send the address they connect to, where ws stands for http and wss for https.
_SAME_SCHEME = {"ws": "http", "wss": "https"}
_DEFAULT_PORT = {"http": ":80", "https": ":443"}
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.ASCII | re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?", re.ASCII)
_NUMBERS = re.compile(r"[0-9.]+")


def comparable(origin: str) -> str:
    """Return the canonical form of an origin: ws as http, wss as https, no default port."""
    scheme, mark, rest = origin.partition("://")
    scheme = _SAME_SCHEME.get(scheme, scheme)
    return scheme + mark + rest.removesuffix(_DEFAULT_PORT.get(scheme, "/"))


def is_loopback_host(host: str) -> bool:
    """Is this host (of a Host header or an origin) a loopback name of this machine?"""
    return _LOOPBACK.fullmatch(host) is not None


def is_loopback_page(origin: str) -> bool:
    scheme, _, host = origin.partition("://")
    return scheme in ("http", "https") and is_loopback_host(host)


def misfit(text: str) -> str:
    """Return why a text in `allowed_origins` can never match a page, or ""."""
    if text == ANY or text in WITHOUT_HOST:
        return ""
    if "*" in text:
        return 'a star stands alone, for every origin; part of one is not understood: list each, as "https://a.example"'
    scheme, mark, rest = text.partition("://")
    if not (mark and rest and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme)):
        return "it is no origin; write scheme://host or scheme://host:port"
    try:
        url = urlsplit(text)
        port, host = url.port, url.hostname or ""
    except ValueError:
        return "it is no origin; write scheme://host or scheme://host:port"
    if "@" in rest:
        return "an origin has no user or password"
    if any(mark in rest for mark in ", "):
        return "it is more than one origin, or no host's name"
    if any(mark in rest for mark in "/?#"):
        return f"an origin ends with its host or port; write {scheme}://{url.netloc}"
    if port is None:
        written = "" if rest.endswith(":") else rest
    else:
        written = rest[: -len(f":{port}")] if rest.endswith(f":{port}") else ""
    if not host or not written or port == 0:
        return "it is no origin; write scheme://host or scheme://host:port"
    if text != text.lower():
        return f"browsers write it in lower case: {text.lower()}"
    return _host_misfit(host, written)


def _host_misfit(host: str, written: str) -> str:
    if written.startswith("["):
        address = parse_address(host)
        right = f"[{ip_address(host.partition('%')[0])}]" if address is not None else ""
        return "" if right == written else f"browsers write the address as {right}" if right else "it is no address"
    if not host.isascii():
        try:
            return f"browsers write it as {host.encode('idna').decode()}"
        except UnicodeError:
            return "it is no host's name"
    if _HOST.fullmatch(host) is None:
        return "it is no host's name"
    if _NUMBERS.fullmatch(host) and parse_address(host) is None:
        return "it is neither a name nor an address"
    return ""
