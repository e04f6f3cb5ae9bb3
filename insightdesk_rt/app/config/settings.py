"""The table of settings: name, type, default and help of each.

`conf/insightdesk-rt.toml` and the table in `docs/configuration.md` are printed from it (`insightdesk-rt check --print`)
and compared by a test. A default is a decision: its reason stands beside it where the help does not say it.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from insightdesk_rt.engine.addresses import is_loopback
from insightdesk_rt.engine.model import UserKeys
from insightdesk_rt.engine.rate_limits import Rate, parse_rate
from insightdesk_rt.engine.secret import Secret, SecretUrl
from insightdesk_rt.engine.wire.frames import MAX_FRAGMENTS

WHEEL_STEP_MS = 50  # heartbeats are no more exact than this; a timeout must be several of them

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Bytes = Annotated[int, Meta(ge=0, le=100_000_000)]
Ms = Annotated[int, Meta(ge=2 * WHEEL_STEP_MS, le=3_600_000)]
Seconds = Annotated[int, Meta(ge=1, le=86_400)]
Within = Annotated[int, Meta(ge=0, le=86_400)]
Names = tuple[str, ...]
Level = Literal["debug", "info", "warning", "error"]


def Help(text: str, group: str | None = None) -> Meta:
    """What a setting is for; `group` opens a new group of settings."""
    return Meta(description=text, title=group)


class Settings(Struct, frozen=True, kw_only=True):
    # Both families of loopback: `localhost` is ::1 first for Node 18 and others.
    address: Annotated[
        Names, Help("addresses of the client port; :: is every one, of IPv4 and IPv6", "Where it listens")
    ] = ("127.0.0.1", "::1")
    port: Annotated[Port, Help("client port; 0 takes a free one")] = 3001
    admin_address: Annotated[Names, Help("addresses of the admin port")] = ("127.0.0.1", "::1")
    admin_port: Annotated[Port, Help("admin port, of the first worker; 0 takes free ones")] = 3002
    admin_allow_plaintext: Annotated[bool, Help("the admin port may be off loopback without TLS")] = False
    workers: Annotated[int, Meta(ge=1, le=256), Help("processes that share the client port, one per core")] = 1
    relay_address: Annotated[
        str, Help("where other machines' nodes reach this one, to pass polls on; empty: nowhere")
    ] = ""
    relay_port: Annotated[Port, Help("its port there; 0 takes a free one")] = 0
    admin_hosts: Annotated[Names, Help("names by which the admin port is called, besides localhost and addresses")] = ()
    tls_cert_file: Annotated[str, Help("certificate chain (PEM), to speak TLS without a proxy in front")] = ""
    tls_key_file: Annotated[str, Help("private key of it (PEM)")] = ""
    allowed_origins: Annotated[Names, Help('other origins browsers may come from; "*" for any')] = ()
    trusted_proxies: Annotated[Names, Help("addresses or networks whose X-Forwarded-For is believed")] = ()
    demo: Annotated[bool, Help("serve /demo, a helpdesk that moves by itself (loopback only)")] = False

    data_dir: Annotated[str, Help("folder of the secret and the embedded Valkey", "What it keeps")] = "./data"
    valkey_url: Annotated[SecretUrl, Help("valkey://, valkeys:// or unix://; empty starts an embedded one")] = (
        SecretUrl()
    )
    valkey_prefix: Annotated[str, Help("first part of every key and channel; one per environment")] = "insightdesk"
    node_id: Annotated[str, Help("name of this node in session ids and logs; empty makes one up")] = ""
    cluster_secret: Annotated[Secret, Help("secret of the nodes' own, 32 bytes or more; empty: the tokens'")] = Secret()
    cluster_secret_file: Annotated[str, Help("file that holds it")] = ""
    log_max_entries: Annotated[int, Meta(ge=100), Help("events kept per namespace for clients that return")] = 100_000
    # The log of a busy chat in Chinese or emoji has 16 KB an event: 100,000 of them would be 1.6 GB.
    log_max_bytes: Annotated[
        int, Meta(ge=0, le=100_000_000_000), Help("bytes kept per namespace for them; 0: any number")
    ] = 134_217_728
    embedded_memory_bytes: Annotated[
        int,
        Meta(ge=0, le=1_000_000_000_000),
        Help("memory the embedded Valkey may use; 0: half of the machine's or container's"),
    ] = 0
    durable: Annotated[bool, Help("acknowledge a chat message once it is on disk")] = False

    jwt_secret: Annotated[Secret, Help("secret of HS tokens, 32 bytes or more", "Who may come in")] = Secret()
    jwt_secret_file: Annotated[str, Help("file that holds it; without either, one is made in data_dir")] = ""
    jwt_algorithms: Annotated[Names, Help("algorithms a token may be signed with")] = ("HS256",)
    jwt_public_key_file: Annotated[str, Help("public key (PEM) of RS, PS, ES or EdDSA tokens")] = ""
    jwks_url: Annotated[SecretUrl, Help("where the issuer publishes its public keys (JWKS)")] = SecretUrl()
    jwt_issuer: Annotated[str, Help("the iss a token must have; empty: any or none")] = ""
    jwt_audience: Annotated[str, Help("the aud a token must have; empty: none")] = ""
    jwt_leeway_s: Annotated[int, Meta(ge=0, le=30), Help("how long after its exp a token still counts")] = 0
    user_ids: Annotated[
        Literal["shared", "separate"], Help("separate: a customer and an agent with one id are two people")
    ] = "shared"
    admin_keys_file: Annotated[str, Help("file of the admin port's static keys; `key` makes its lines")] = ""
    agent_access: Annotated[Literal["team", "all"], Help("tickets an agent may read")] = "team"
    access: Annotated[str, Help("package.module:factory of your own check of who may read a ticket")] = ""

    transports: Annotated[Names, Help("what Engine.IO clients may use", "Connections")] = ("polling", "websocket")
    # of the name that Socket.IO's own server and clients give it
    add_trailing_slash: Annotated[bool, Help("Socket.IO is at /socket.io/ alone; false: also at /socket.io")] = True
    websocket_deflate: Annotated[bool, Help("compress websocket messages; costs memory and CPU")] = False
    ping_interval_ms: Annotated[Ms, Help("time between heartbeats")] = 25_000
    ping_timeout_ms: Annotated[Ms, Help("how long a client may take to answer one")] = 30_000
    connect_timeout_s: Annotated[Within, Help("how long a client may stay without a namespace; 0: for ever")] = 45
    upgrade_timeout_s: Annotated[Within, Help("how long an upgrade to websocket may take; 0: for ever")] = 10
    handshake_timeout_s: Annotated[
        Within, Help("how long HTTP headers may take, and a kept connection be idle; 0: for ever")
    ] = 10
    # a megabyte in 30 s is 270 kbit/s; who is slower is a slow loris, or should use a websocket
    body_timeout_s: Annotated[Within, Help("how long the body of a POST may take; 0: for ever")] = 30
    # four times a POST's: that much the attachments of a packet may be more
    message_timeout_s: Annotated[Within, Help("how long a message may take that has begun to come in; 0: for ever")] = (
        120
    )
    unread_timeout_s: Annotated[Within, Help("how long nobody may read an answer over HTTP; 0: for ever")] = 30
    connection_recovery: Annotated[bool, Help("give clients that come back what they missed")] = True
    recovery_window_s: Annotated[Seconds, Help("how long they may have been away")] = 120
    drain_seconds: Annotated[int, Meta(ge=0, le=3600), Help("time over which a stop sends clients away")] = 10

    max_payload_bytes: Annotated[Bytes, Help("one message or POST of a client; 0: any size", "Limits")] = 1_000_000
    max_connect_bytes: Annotated[Bytes, Help("a CONNECT, and any message before one; 0: as max_payload_bytes")] = 16_384
    max_fragments_per_message: Annotated[Count, Help("websocket frames of one message; 0: any number")] = MAX_FRAGMENTS
    max_attachments_per_packet: Annotated[Count, Help("binary attachments of one packet; 0: any number")] = 10
    log_reads_at_once: Annotated[
        int, Meta(ge=1, le=1000), Help("questions of clients to Valkey about what they missed; others wait")
    ] = 16
    max_json_depth: Annotated[Count, Help("brackets within brackets; 0: as deep as Python goes")] = 64
    max_event_name_chars: Annotated[Count, Help("length of an event's name; 0: any")] = 256
    max_namespace_chars: Annotated[Count, Help("length of a namespace's name; 0: any")] = 128
    # 256 KiB: one 33 MB event once overflowed the pub/sub buffers of every node of a python-socketio cluster
    max_event_bytes: Annotated[Bytes, Help("one event between nodes; 0: any size")] = 262_144
    max_outbox_bytes: Annotated[Bytes, Help("unsent bytes at which a client is closed; 0: never")] = 1_048_576
    max_outbox_events: Annotated[Count, Help("unsent events at which a client is closed; 0: never")] = 10_000
    volatile_outbox_bytes: Annotated[Bytes, Help("unsent bytes from which volatile events are dropped; 0: never")] = (
        65_536
    )
    # eight messages of the usual 1 MB at a time; a connection for each would be 400 MB of one user
    max_unfinished_bytes_per_user: Annotated[
        Count, Help("bytes of a user's messages that have begun to come in, at a time; 0: any number")
    ] = 8_000_000
    max_unfinished_bytes: Annotated[Count, Help("the same of all clients of a node; 0: any number")] = 268_435_456
    max_waiting_calls_per_socket: Annotated[Count, Help("calls that wait for those before them; 0: any number")] = 1000
    max_rooms_per_socket: Annotated[Count, Help("rooms a socket may be in; 0: any number")] = 1000
    max_namespaces_per_connection: Annotated[Count, Help("namespaces a client may join; 0: any number")] = 10
    max_connects_per_connection_per_minute: Annotated[Count, Help("connects into namespaces; 0: any number")] = 60
    # Ten a second: a person with ten tabs of four namespaces whose network drops every five seconds makes eight.
    max_connects_per_user_per_minute: Annotated[Count, Help("a user's connects into namespaces; 0: any number")] = 600
    max_connections_per_user: Annotated[Count, Help("sockets of a user per namespace; 0: any number")] = 100
    max_connections_per_address: Annotated[Count, Help("clients of one address; 0: any number")] = 0
    max_connects_per_address_per_second: Annotated[Count, Help("new clients of one address; 0: any number")] = 0
    rate_limits: Annotated[dict[str, str], Help('per user, event = "max/seconds"; "default" for the others')] = {}

    presence_grace_ms: Annotated[Count, Help("how long a user may be away before offline", "Helpdesk")] = 5000
    typing_ms: Annotated[Ms, Help("how long typing shows after the last keystroke")] = 5000
    dashboard_interval_ms: Annotated[Ms, Help("time between dashboard metrics")] = 5000
    chat_waiting_timeout_s: Annotated[Seconds, Help("how long a customer waits for an agent")] = 600
    chat_idle_timeout_s: Annotated[Seconds, Help("how long a chat may be silent")] = 900

    log_level: Annotated[Level, Help("least level that is logged", "Logs")] = "info"
    log_format: Annotated[Literal["kv", "json"], Help("key=value or JSON, a line per event")] = "kv"

    def __post_init__(self) -> None:
        """Make secrets of the texts that code gives to secret settings."""
        for name, kind in SECRETS.items():
            value = getattr(self, name)
            if isinstance(value, str):
                msgspec.structs.force_setattr(self, name, kind(value))

    @property
    def user_keys(self) -> UserKeys:
        return UserKeys(self.user_ids == "separate")

    @property
    def on_loopback(self) -> bool:
        """Can only this machine reach the client port?"""
        return all(map(is_loopback, self.address))

    @property
    def admin_on_loopback(self) -> bool:
        """Can only this machine reach the admin port?"""
        return all(map(is_loopback, self.admin_address))

    @property
    def rates(self) -> dict[str, Rate]:
        """The limits set per event; key "default" is for events that declare none."""
        return {event: parse_rate(text) for event, text in self.rate_limits.items()}


SECRETS: dict[str, type[Secret]] = {
    "valkey_url": SecretUrl,
    "cluster_secret": Secret,
    "jwt_secret": Secret,
    "jwks_url": SecretUrl,
}


class Setting(NamedTuple):
    """One row of the table."""

    name: str
    type: Any  # with its bounds, for msgspec
    kind: type  # bool, int, str, tuple, dict, or a kind of Secret
    default: Any
    help: str
    group: str  # the heading it stands under
    expected: str  # "a whole number from 0 to 65535"

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


@cache
def table() -> dict[str, Setting]:
    """Return every setting by name, in the order of the documentation."""
    types, rows, group = get_type_hints(Settings, include_extras=True), {}, ""
    described = msgspec.inspect.type_info(Settings)
    assert isinstance(described, msgspec.inspect.StructType)
    for field in described.fields:
        assert isinstance(field.type, msgspec.inspect.Metadata)
        words = field.type.extra_json_schema or {}
        group = words.get("title", group)
        default = {} if field.default is msgspec.NODEFAULT else field.default
        base = types[field.name].__origin__
        kind = get_origin(base) or base
        if kind is Literal:  # msgspec would sort its words
            kind, expected = str, " or ".join(get_args(base))
        else:
            expected = _expected(field.type.type)
        rows[field.name] = Setting(field.name, types[field.name], kind, default, words["description"], group, expected)
    return rows


def _expected(kind: msgspec.inspect.Type) -> str:
    match kind:
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.IntType(ge=least, le=most):
            return f"a whole number from {least}" + ("" if most is None else f" to {most}")
        case msgspec.inspect.VarTupleType():
            return "a list of texts"
        case msgspec.inspect.DictType():
            return 'a table of event = "max/seconds"'
    return "a text"
