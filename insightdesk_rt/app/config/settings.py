"""All settings of the server, put together from the structs in which its parts declare them, and the table of them.

    settings = compose(port=0, max_outbox_bytes=100_000)
    settings.outbox.max_outbox_bytes       # 100000: a part is handed its struct as a whole
    flat(settings)["max_outbox_bytes"]     # 100000: under its name, as it is written

`conf/insightdesk-rt.toml` and the table in `docs/configuration.md` are printed from the table (`insightdesk-rt check
--print`) and compared by a test.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct, structs

from insightdesk_rt.api.keys_and_scopes import AdminSettings
from insightdesk_rt.app.certificates import TlsSettings
from insightdesk_rt.app.embedded_valkey import EmbeddedSettings
from insightdesk_rt.app.logs import LogSettings
from insightdesk_rt.backend.parts import PARTS
from insightdesk_rt.engine.cluster.publisher import EventLogSettings
from insightdesk_rt.engine.cluster.sessions import RecoverySettings
from insightdesk_rt.engine.cluster.valkey import ValkeySettings
from insightdesk_rt.engine.dispatch.dispatch import DispatchSettings
from insightdesk_rt.engine.doors.client_port import PortSettings
from insightdesk_rt.engine.doors.listener import Times
from insightdesk_rt.engine.doors.relay import RelaySettings
from insightdesk_rt.engine.hub.hub import HubSettings
from insightdesk_rt.engine.secret import Secret
from insightdesk_rt.engine.settings import FeatureSettings, Help, SettingsPart, has_no_limit
from insightdesk_rt.engine.tokens import TokenSettings
from insightdesk_rt.engine.transport.outbox import OutboxLimits
from insightdesk_rt.engine.transport.registry import ClientSettings
from insightdesk_rt.engine.wire.limits import PacketLimits
from insightdesk_rt.helpdesk.features import FEATURES


class ProcessSettings(SettingsPart, frozen=True):
    """The settings of the program around the server."""

    node_id: Annotated[str, Help("name of this node in session ids and logs; empty: a random one")] = ""
    workers: Annotated[int, Meta(ge=1, le=256), Help("processes that share the client port, one per core")] = 1
    demo: Annotated[bool, Help("serve /demo, a simulated helpdesk (loopback only)")] = False
    drain_seconds: Annotated[
        int, Meta(ge=0, le=3600), Help("seconds over which a stopping server disconnects its clients")
    ] = 10


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of one server, one attribute per part. Made by `compose`."""

    process: ProcessSettings = ProcessSettings()
    client_port: PortSettings = PortSettings()
    admin_port: AdminSettings = AdminSettings()
    relay: RelaySettings = RelaySettings()
    tls: TlsSettings = TlsSettings()
    http: Times = Times()
    tokens: TokenSettings = TokenSettings()
    valkey: ValkeySettings = ValkeySettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    event_log: EventLogSettings = EventLogSettings()
    recovery: RecoverySettings = RecoverySettings()
    clients: ClientSettings = ClientSettings()
    outbox: OutboxLimits = OutboxLimits()
    packets: PacketLimits = PacketLimits()
    hub: HubSettings = HubSettings()
    dispatch: DispatchSettings = DispatchSettings()
    logs: LogSettings = LogSettings()
    features: FeatureSettings = FeatureSettings()


# The order of the settings in the documentation, the file and --help. A new setting need not be named here:
# it then stands at the end of a group, a feature's or a back end part's under "Helpdesk", all others under "Logs".
GROUPS: dict[str, tuple[str, ...]] = {
    "Addresses and ports": (
        "address", "port", "admin_address", "admin_port", "admin_allow_plaintext", "workers", "relay_address",
        "relay_port", "admin_hosts", "tls_cert_file", "tls_key_file", "allowed_origins", "trusted_proxies", "demo",
    ),
    "Stored data": (
        "data_dir", "valkey_url", "valkey_password_file", "sentinel_password_file", "valkey_prefix",
        "node_id", "cluster_secret", "cluster_secret_file", "log_max_entries", "log_max_bytes",
        "feed_max_entries", "feed_max_bytes", "feed_max_age_s", "embedded_memory_bytes", "durable",
        "min_replicas_to_ack",
    ),
    "Authentication": (
        "jwt_secret", "jwt_secret_file", "jwt_secret_files", "jwt_algorithms", "jwt_public_key_file", "jwks_url",
        "jwt_issuer", "jwt_audience", "jwt_claims", "jwt_roles", "jwt_issuers", "jwt_leeway_s", "user_ids",
        "admin_keys_file", "agent_access", "access",
    ),
    "Asking the back end": (
        "hook_secret", "hook_secret_file", "hook_requests_at_once", "access_url", "access_down", "access_timeout_ms",
        "connect_url", "connect_headers", "connect_url_timeout_ms", "rpc_url", "rpc_events", "rpc_timeout_ms",
    ),
    "Connections": (
        "transports", "add_trailing_slash", "websocket_deflate", "ping_interval_ms", "ping_timeout_ms",
        "connect_timeout_s", "upgrade_timeout_s", "handshake_timeout_s", "body_timeout_s", "message_timeout_s",
        "unread_timeout_s", "connection_recovery", "recovery_window_s", "drain_seconds",
    ),
    "Limits": (
        "max_payload_bytes", "max_connect_bytes", "max_fragments_per_message", "max_attachments_per_packet",
        "log_reads_at_once", "max_json_depth", "max_event_name_chars", "max_namespace_chars", "max_event_bytes",
        "max_outbox_bytes", "max_outbox_events", "volatile_outbox_bytes", "max_unfinished_bytes_per_user",
        "max_unfinished_bytes", "max_waiting_calls_per_socket", "max_rooms_per_socket",
        "max_namespaces_per_connection", "max_connects_per_connection_per_minute",
        "max_connects_per_user_per_minute", "max_connections_per_user", "max_connections_per_address",
        "max_connects_per_address_per_second", "rate_limits",
    ),
    "Helpdesk": (
        "presence_grace_ms", "typing_ms", "dashboard_interval_ms", "chat_waiting_timeout_s", "chat_idle_timeout_s",
        "notification_unseen_s", "webhook_allow_private", "webhook_ca_file",
    ),
    "Logs": ("log_level", "log_format"),
}  # fmt: skip


TABLES = "a list of tables with the fields that the documentation names"


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

    @property
    def of_tables(self) -> bool:
        """Whether it is a list of tables, which is written as JSON in a shell."""
        return self.expected == TABLES


@cache
def table() -> dict[str, Setting]:
    """Return every setting by name, in the order of the documentation."""
    fields: dict[str, tuple[type[SettingsPart], Any]] = {}
    for part in (*_parts().values(), *_of_features()):
        for name, hint in _declared(part).items():
            assert fields.setdefault(name, (part, hint))[1] == hint, f"{name} is declared twice, and differently"
    named = {name: group for group, names in GROUPS.items() for name in names}
    rest = {name: "Helpdesk" if part in _of_features() else "Logs" for name, (part, _) in fields.items()}
    rows = [_row(name, *fields[name], group) for name, group in (named | (rest | named)).items()]
    rows.sort(key=lambda row: list(GROUPS).index(row.group))
    return {row.name: row for row in rows}


def compose(**values: Any) -> Settings:
    """Return the settings with the values given by name, and the defaults of all others."""
    unknown = values.keys() - table().keys()
    if unknown:
        raise TypeError(f"there are no such settings: {', '.join(sorted(unknown))}")
    parts: dict[str, Any] = {attribute: _filled(part, values) for attribute, part in _parts().items()}
    of_features = {part: _filled(part, values) for part in _of_features()}
    settings = Settings(**parts, features=FeatureSettings(of_features))
    features = FeatureSettings(of_features, flat(settings), settings.tokens.user_keys)
    return structs.replace(settings, features=features)


def flat(settings: Settings) -> dict[str, Any]:
    """Return every value by the name of its setting, in the order of the table. A limit that is switched off is 0."""
    parts: list[SettingsPart] = [getattr(settings, attribute) for attribute in _parts()]
    parts += [settings.features.of(part) for part in _of_features()]
    values: dict[str, Any] = {}
    for part in parts:
        for name in _declared(type(part)):
            values[name] = 0 if has_no_limit(part, name) else getattr(part, name)
    return {name: values[name] for name in table()}


def changed(settings: Settings, **values: Any) -> Settings:
    """Return the settings with other values for some names."""
    return compose(**(flat(settings) | values))


@cache
def _parts() -> dict[str, type[SettingsPart]]:
    """Return the classes of the attributes of Settings, the features' apart."""
    return {name: kind for name, kind in get_type_hints(Settings).items() if issubclass(kind, SettingsPart)}


@cache
def _of_features() -> tuple[type[SettingsPart], ...]:
    """Return the classes in which features and the parts of the back end's wing declare settings, each once."""
    return tuple(dict.fromkeys((*(each.settings for each in FEATURES), *(each.settings for each in PARTS))))


@cache
def _declared(part: type[SettingsPart]) -> dict[str, Any]:
    """Return name and type of the fields of a part that are settings: those with a Help."""
    hints = get_type_hints(part, include_extras=True)
    return {name: hint for name, hint in hints.items() if _help(hint)}


def _help(hint: Any) -> str:
    metas = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta)]
    return next((meta.description for meta in metas if meta.description), "")


def _filled(part: type[SettingsPart], values: dict[str, Any]) -> SettingsPart:
    return part(**{name: values[name] for name in part.__struct_fields__ if name in values})


def _row(name: str, part: type[SettingsPart], hint: Any, group: str) -> Setting:
    default = next(_default(field) for field in structs.fields(part) if field.name == name)
    kind = get_origin(hint.__origin__) or hint.__origin__
    if kind is Literal:  # msgspec would sort its words
        kind, expected = str, " or ".join(get_args(hint.__origin__))
    else:
        described = msgspec.inspect.type_info(hint)
        assert isinstance(described, msgspec.inspect.Metadata)
        expected = _expected(described.type)
    return Setting(name, hint, kind, default, _help(hint), group, expected)


def _default(field: structs.FieldInfo) -> Any:
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


def _expected(kind: msgspec.inspect.Type) -> str:
    match kind:
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.IntType(ge=least, le=most):
            return f"a whole number from {least}" + ("" if most is None else f" to {most}")
        case msgspec.inspect.VarTupleType(item_type=msgspec.inspect.StructType()):
            return TABLES
        case msgspec.inspect.VarTupleType():
            return "a list of texts"
        case msgspec.inspect.DictType(key_type=keys, value_type=values):
            named = [one for one in (keys, values) if isinstance(one, msgspec.inspect.LiteralType)]
            known = [" or ".join(map(str, one.values)) for one in named]
            return f"a table of name = text, with {known[0]}" if known else 'a table of event = "max/seconds"'
    return "a text"


@cache
def secrets() -> dict[str, type[Secret]]:
    """Return the settings that hold a secret, with their types."""
    return {name: row.kind for name, row in table().items() if issubclass(row.kind, Secret)}
