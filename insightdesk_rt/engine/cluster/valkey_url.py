"""Parses and checks Valkey's URL: one server, a primary that Sentinels name, or a Valkey Cluster.

    valkey://[user:password@]host:6379[/db]                              one server; valkeys:// with TLS; redis(s)://
    unix:///path/to/socket                                               one server on this machine
    valkey+sentinel://[user:password@]host:26379,host:26379/NAME[/db]    the primary that Sentinels call NAME
    valkey+cluster://[user:password@]host:6379,host:6379                 a cluster; one reachable host is enough

`valkeys+sentinel://` and `valkeys+cluster://` use TLS, towards the Sentinels too. User and password are the servers';
Sentinels may have their own, in the options `sentinel_username` and `sentinel_password`. Files with passwords are read
at each connect, so a changed password needs no restart.
"""

from __future__ import annotations

import enum
import re
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, parse_qsl, urlsplit

from valkey.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)

from insightdesk_rt.engine.cluster.outage import NoServer
from insightdesk_rt.engine.cluster.resp import pack
from insightdesk_rt.engine.secret import options_of, split_url, url_fault

EXPECTED = (
    "expected valkey://host:6379, valkeys:// (TLS), valkey+sentinel://host:26379/NAME, valkey+cluster://host:6379 "
    "or unix:///path/to/socket"
)
ONE_SERVER = ("valkey", "valkeys", "redis", "rediss", "unix")
SCHEME = re.compile(r"(valkeys?)\+(sentinel|cluster)")
PORT, SENTINEL_PORT = 6379, 26_379
# The options of valkey-py behind the ? that make sense for this server's connections.
PLAIN_OPTIONS = frozenset({"client_name", "db", "password", "username"})
SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})
TLS_OPTIONS = frozenset(
    {"ssl_ca_certs", "ssl_ca_data", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_ciphers", "ssl_keyfile"}
)


class Topology(enum.Enum):
    ONE = "one server"
    SENTINEL = "Sentinel"
    CLUSTER = "cluster"


class Host(NamedTuple):
    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


class Endpoint(NamedTuple):
    """One server to connect to: a unix socket's `path`, or a host. `options`: arguments of valkey-py's connections."""

    path: str
    host: str
    port: int
    options: Mapping[str, Any]
    tls: bool

    @property
    def username(self) -> str:
        return self.options.get("username") or ""

    @property
    def password(self) -> str:
        return self.options.get("password") or ""

    def connection(self, deadline_s: float, **more: Any) -> AbstractConnection:
        """Return a connection of valkey-py that is not connected yet."""
        options = {**self.options, "socket_timeout": None, "socket_connect_timeout": deadline_s, **more}
        if self.path:
            return UnixDomainSocketConnection(path=self.path, **options)
        kind = SSLConnection if self.tls else Connection
        return kind(host=self.host, port=self.port, **options)

    async def ask(self, commands: Sequence[Sequence[str]], deadline_s: float) -> list[Any]:
        """Return the answers to some commands, on a connection of their own. Raises ValkeyError, OSError."""
        connection = self.connection(deadline_s, decode_responses=True)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_packed_command([pack(command) for command in commands], check_health=False)
            return [await connection.read_response() for _ in commands]
        finally:
            await connection.disconnect(nowait=True)

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the context for a connection of our own. It reads the files with certificates."""
        if not self.tls:
            return None
        context: ssl.SSLContext = SSLConnection(host=self.host, port=self.port, **self.options).ssl_context.get()
        return context

    def __str__(self) -> str:
        return self.path or str(Host(self.host, self.port))


class ValkeyUrl(NamedTuple):
    """A parsed URL. `hosts` are the server itself, the Sentinels, or some servers of the cluster."""

    topology: Topology
    hosts: tuple[Host, ...]
    path: str
    name: str  # of the primary, which the Sentinels know it by
    tls: bool
    options: Mapping[str, Any]
    sentinel_options: Mapping[str, Any]
    password_file: str = ""
    sentinel_password_file: str = ""

    def endpoint(self, host: Host | None = None) -> Endpoint:
        """Return where and how to connect to a server. Raises NoServer if the password's file cannot be read."""
        to = host or (self.hosts[0] if self.hosts else Host("", 0))
        options = with_password("valkey_password_file", self.password_file, self.options)
        return Endpoint("" if host else self.path, to.name, to.port, options, self.tls)

    def sentinel(self, host: Host) -> Endpoint:
        """Return where and how to connect to a Sentinel. Raises NoServer as `endpoint`."""
        options = with_password("sentinel_password_file", self.sentinel_password_file, self.sentinel_options)
        return Endpoint("", host.name, host.port, options, self.tls)


def parse(url: str, password_file: str = "", sentinel_password_file: str = "") -> ValkeyUrl:
    """Parse a URL. Raises ValueError for a text that is not a Valkey URL; `fault_of` says what is wrong with it."""
    parts = urlsplit(url)
    many = SCHEME.fullmatch(parts.scheme)
    files = password_file, sentinel_password_file
    if many is None:
        options = _options(url)
        path = options.pop("path", "")
        host = Host(options.pop("host", "localhost"), options.pop("port", PORT))
        tls = parts.scheme in ("valkeys", "rediss")
        return ValkeyUrl(Topology.ONE, () if path else (host,), path, "", tls, options, {}, *files)
    plain, topology = many[1], Topology.SENTINEL if many[2] == "sentinel" else Topology.CLUSTER
    user, at, hosts_text = parts.netloc.rpartition("@")
    default = SENTINEL_PORT if topology is Topology.SENTINEL else PORT
    hosts = tuple(_host(text, default) for text in hosts_text.split(","))
    name, _, db = parts.path.strip("/").partition("/")
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    of_servers = "&".join(part for part in parts.query.split("&") if part.partition("=")[0] not in SENTINEL_OPTIONS)
    options = _options(f"{plain}://{user}{at}{hosts[0]}/{db}?{of_servers}")
    options.pop("host", None), options.pop("port", None)
    tls_options = {key: value for key, value in options.items() if key.startswith("ssl_")}
    own = {key.removeprefix("sentinel_"): query[key] for key in SENTINEL_OPTIONS & query.keys()}
    if topology is Topology.CLUSTER:
        name = ""
    return ValkeyUrl(topology, hosts, "", name, plain == "valkeys", options, {**tls_options, **own}, *files)


def endpoint(url: str) -> Endpoint:
    """Return the endpoint of a URL that names one server. Raises ValueError."""
    return parse(url).endpoint()


def with_password(setting: str, file: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return options with the password from a file, if there is one. Raises NoServer if it cannot be read."""
    if not file:
        return options
    try:
        password = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as why:
        raise NoServer(f"{setting} = {file} cannot be read") from why
    if not password:
        raise NoServer(f"{setting} = {file} is empty")
    return {**options, "password": password}


def fault_of(text: str) -> str:
    """Return what is wrong with a URL, in words that contain no part of it, or ""."""
    if "://" not in text and not text.startswith("unix:"):
        return EXPECTED
    if fault := url_fault(text):
        return fault if "percent" in fault else EXPECTED
    url = split_url(text)
    if url is None:
        return EXPECTED
    many = SCHEME.fullmatch(url.scheme)
    if many is None and url.scheme not in ONE_SERVER:
        return EXPECTED
    if not (url.path if url.scheme == "unix" else url.hostname):
        return EXPECTED
    if why := _path_fault(many[2] if many else url.scheme, url.path):
        return why
    known = PLAIN_OPTIONS
    if many and many[2] == "sentinel":
        known |= SENTINEL_OPTIONS
    if url.scheme.startswith(("valkeys", "rediss")):
        known |= TLS_OPTIONS
    if set(options_of(url)) - known:
        return f"expected no other options behind the ? than {', '.join(sorted(known))}"
    if not all(value.isascii() and value.isdigit() for name, value in parse_qsl(url.query) if name == "db"):
        return "expected a number for the option db"
    return ""


def _path_fault(kind: str, path: str) -> str:
    """Return what is wrong with the part of a URL behind its hosts, or ""."""
    if kind == "sentinel" and not re.fullmatch(r"/[A-Za-z0-9._-]+(/[0-9]*)?", path):
        return "expected the primary's name behind the Sentinels, as in valkey+sentinel://host:26379,host:26379/NAME"
    if kind == "cluster" and path not in ("", "/"):
        return (
            "expected nothing behind the hosts of a cluster, which has no databases, as in valkey+cluster://host:6379"
        )
    if kind not in ("sentinel", "cluster", "unix") and not re.fullmatch(r"/?[0-9]*", path):
        return "expected nothing behind the host but the number of a database, as in valkey://host:6379/0"
    return ""


def _options(url: str) -> dict[str, Any]:
    options: dict[str, Any] = dict(parse_url(url))
    options.pop("connection_class", None)
    if url.startswith(("valkeys:", "rediss:")):
        options.setdefault("ssl_check_hostname", True)  # valkey-py's default is to check the chain only
    return options


def _host(text: str, default: int) -> Host:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host is missing")
    return Host(parts.hostname, parts.port or default)
