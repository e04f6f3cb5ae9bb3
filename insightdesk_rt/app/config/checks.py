"""Checks settings against each other before anything starts: one finding per problem, named by the setting to change.

`misfits` and `doubts` are pure: they look at the values only. `file_misfits` looks at files and folders.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from insightdesk_rt.app.config.settings import Settings, flat
from insightdesk_rt.backend.hooks.rpc import parse_events
from insightdesk_rt.backend.hooks.settings import MAKE_SECRET, HookSettings, secret_fault
from insightdesk_rt.engine import origins
from insightdesk_rt.engine.addresses import is_loopback, parse_address
from insightdesk_rt.engine.claims import ClaimUse
from insightdesk_rt.engine.cluster.valkey import ValkeySettings
from insightdesk_rt.engine.cluster.valkey_url import Topology, fault_of, parse
from insightdesk_rt.engine.dispatch.expiry import REFRESH
from insightdesk_rt.engine.rate_limits import parse_rate
from insightdesk_rt.engine.secret import split_url
from insightdesk_rt.engine.tokens import FAMILIES, MIN_SECRET_BYTES, TokenIssuer, TokenSettings
from insightdesk_rt.helpdesk.features import FEATURES
from insightdesk_rt.helpdesk.tickets.settings import TicketSettings

LEAST_BYTES = 1024  # the size of a small event; with less nothing works
LEAST_EVENTS = 10
TRANSPORTS = {"polling", "websocket"}
MAX_PATH = 200  # characters of the path of a claim
# Headers that belong to the request itself, or that say what the server says to the back end.
NOT_FORWARDED = frozenset(
    {"accept-encoding", "connection", "content-length", "content-type", "host", "te", "transfer-encoding", "upgrade"}
)
NOT_A_WEB_URL = "expected http(s)://host/path, without a password"


def misfits(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield name and reason of each setting that must be changed."""
    yield from _listening(settings)
    yield from _demo(settings)
    yield from _clients(settings)
    yield from _keys(settings)
    yield from _store(settings)
    yield from _hooks(settings)
    yield from _limits(settings)


def doubts(settings: Settings) -> Iterator[str]:
    """Yield warnings: combinations that are allowed, and that an admin should know about."""
    for name, text in [
        ("jwks_url", settings.tokens.jwks_url.reveal()),
        *(("jwt_issuers: jwks_url", one.jwks_url) for one in settings.tokens.jwt_issuers),
    ]:
        url = split_url(text)
        if url and url.scheme == "http" and not is_loopback(url.hostname or ""):
            yield f"{name} is not https: anybody on the network path can replace the keys"
    hs = "HS" in {FAMILIES.get(name) for name in settings.tokens.jwt_algorithms}
    if settings.valkey.valkey_url and not (hs or settings.tokens.cluster_secret or settings.tokens.cluster_secret_file):
        yield "cluster_secret is not set: anybody who can write to Valkey can send requests as a node"
    if "*" in settings.client_port.allowed_origins:
        yield "allowed_origins has *: a page of any site can connect if it has a token"
    elif "null" in settings.client_port.allowed_origins:
        yield "allowed_origins has null: any local file and any sandboxed page can connect if it has a token"
    if settings.packets.max_payload_bytes > settings.outbox.max_outbox_bytes:
        yield "max_payload_bytes is over max_outbox_bytes: a client can send what is too big for any client"


def file_misfits(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield name and reason of each file or folder that this user cannot use. Leaves nothing behind."""
    files = {
        "cluster_secret_file": settings.tokens.cluster_secret_file,
        "hook_secret_file": settings.features.of(HookSettings).hook_secret_file,
        "valkey_password_file": settings.valkey.valkey_password_file,
        "sentinel_password_file": settings.valkey.sentinel_password_file,
    }
    for name, file in files.items():
        if file and not os.access(file, os.R_OK):
            yield name, "it cannot be read" if Path(file).exists() else "no such file"
    folder = Path(settings.tokens.data_dir).absolute()
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    try:
        # Really tried, because for root os.access says yes even on a read-only file system and in /proc.
        os.rmdir(tempfile.mkdtemp(prefix=".check-", dir=existing))
    except OSError as why:
        yield "data_dir", f"{existing} cannot be written to: {why.strerror}"


def _listening(settings: Settings) -> Iterator[tuple[str, str]]:
    client, admin, relay, workers = settings.client_port, settings.admin_port, settings.relay, settings.process.workers
    for name, addresses in {"address": client.address, "admin_address": admin.admin_address}.items():
        if not addresses:
            yield name, "expected an address of this machine, like 127.0.0.1, or :: for all addresses"
        for address in addresses:
            if why := _address_misfit(address):
                yield name, f"{address!r}: {why}"
    same = set(client.address) & set(admin.admin_address)
    if admin.admin_port and client.port in range(admin.admin_port, admin.admin_port + workers) and same:
        yield (
            "admin_port",
            "it is the client port too" if workers == 1 else "the admin port of a worker is the client port too",
        )
    if bool(settings.tls.tls_cert_file) != bool(settings.tls.tls_key_file):
        yield "tls_key_file", "tls_cert_file and tls_key_file are needed together"
    if not (settings.tls.tls_cert_file or admin.admin_allow_plaintext or admin.on_loopback):
        why = "off loopback the admin port needs TLS, or admin_allow_plaintext where the network is safe"
        yield "admin_address", why
    last_port = max(port + workers - 1 for port in (admin.admin_port, relay.relay_port))
    if last_port > 65_535:
        yield "workers", f"each worker needs an admin port and a relay port, and there is no port {last_port}"
    if relay.relay_address and _is_unspecified(relay.relay_address):
        yield "relay_address", "expected the address at which other machines reach this one"


def _demo(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.process.demo and settings.process.workers > 1:
        yield "demo", "the demo runs in one process; do not set workers"
    client = settings.client_port
    if settings.process.demo and not client.on_loopback:
        yield "demo", f"the demo gives out tokens and is for loopback only, not for {','.join(client.address)}"


def _clients(settings: Settings) -> Iterator[tuple[str, str]]:
    for origin in settings.client_port.allowed_origins:
        if why := origins.misfit(origin):
            yield "allowed_origins", f"{origin!r}: {why}"
    for network in settings.client_port.trusted_proxies:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            yield "trusted_proxies", f"{network!r} is neither an address nor a network like 10.0.0.0/8"


def _keys(settings: Settings) -> Iterator[tuple[str, str]]:
    tokens = settings.tokens
    unknown = [name for name in tokens.jwt_algorithms if name not in FAMILIES]
    families = {FAMILIES[name] for name in tokens.jwt_algorithms if name in FAMILIES}
    secret = tokens.jwt_secret or tokens.jwt_secret_file or tokens.jwt_secret_files
    public = tokens.jwt_public_key_file or tokens.jwks_url
    if unknown or not families:
        yield "jwt_algorithms", "expected some of " + ", ".join(FAMILIES)
        return
    if tokens.jwt_secret and tokens.jwt_secret_file:
        yield "jwt_secret_file", "jwt_secret is set too; set only one of them"
    if tokens.jwt_secret and len(tokens.jwt_secret.reveal().encode()) < MIN_SECRET_BYTES:
        yield "jwt_secret", f"it is shorter than {MIN_SECRET_BYTES} bytes; make one with: openssl rand -hex 32"
    if tokens.cluster_secret and tokens.cluster_secret_file:
        yield "cluster_secret_file", "cluster_secret is set too; set only one of them"
    if tokens.cluster_secret and len(tokens.cluster_secret.reveal().encode()) < MIN_SECRET_BYTES:
        yield "cluster_secret", f"it is shorter than {MIN_SECRET_BYTES} bytes; make one with: openssl rand -hex 32"
    if "HS" in families and not secret and not settings.client_port.on_loopback:
        yield "address", "off loopback a secret is needed: set jwt_secret_file (or remove HS from jwt_algorithms)"
    yield from _claims("jwt_claims", tokens.jwt_claims)
    yield from _issuers(tokens)
    if secret and "HS" not in families:
        yield "jwt_algorithms", "a secret is set, but no HS algorithm uses it"
    if public and families == {"HS"}:
        yield "jwt_algorithms", "a public key is set, but no RS, PS, ES or EdDSA algorithm uses it"
    if families - {"HS"} and not public:
        yield "jwt_algorithms", "RS, PS, ES and EdDSA need jwt_public_key_file or jwks_url"
    if {"RS", "PS"} <= families:
        # RFC 8725 3.1: one key, one use; an RSA key does not say which of the two it is for.
        yield "jwt_algorithms", "RS and PS use the same kind of key; choose one of them"
    if tokens.jwt_public_key_file and len(families - {"HS"}) > 1:
        yield "jwt_algorithms", "one public key fits one kind of algorithm; several kinds need jwks_url"
    if tokens.jwks_url and not is_web_url(tokens.jwks_url.reveal()):
        yield "jwks_url", NOT_A_WEB_URL


def is_web_url(text: str) -> bool:
    """Return whether the text is a URL of HTTP or HTTPS without a password."""
    url = split_url(text)
    return bool(url and url.scheme in ("http", "https") and url.hostname and "@" not in url.netloc)


def _claims(setting: str, paths: Mapping[ClaimUse, str]) -> Iterator[tuple[str, str]]:
    for use, path in paths.items():
        if not path or len(path) > MAX_PATH or "" in path.split("."):
            yield setting, f"{use}: expected the name of a claim, or a path like realm_access.roles"


def _issuers(tokens: TokenSettings) -> Iterator[tuple[str, str]]:
    names = [one.issuer for one in tokens.jwt_issuers]
    for name in {name for name in names if names.count(name) > 1 or name == tokens.jwt_issuer}:
        yield "jwt_issuers", f"{name}: the issuer is configured twice"
    for one in tokens.jwt_issuers:
        for why in _issuer_faults(one):
            yield "jwt_issuers", f"{one.issuer or 'an issuer'}: {why}"
        for _, why in _claims("", one.claims):
            yield "jwt_issuers", f"{one.issuer}: claims: {why}"


def _issuer_faults(one: TokenIssuer) -> Iterator[str]:
    families = {FAMILIES[name] for name in one.algorithms if name in FAMILIES}
    if not one.issuer:
        yield "issuer: expected the iss of its tokens"
    if set(one.algorithms) - set(FAMILIES) or not families:
        yield "algorithms: expected some of " + ", ".join(FAMILIES)
        return
    if {"RS", "PS"} <= families:
        yield "algorithms: RS and PS use the same kind of key; choose one of them"
    if bool(one.secret_files) != ("HS" in families):
        yield "secret_files: HS algorithms need them, and nothing else does"
    if bool(one.jwks_url or one.public_key_file) != bool(families - {"HS"}):
        yield "RS, PS, ES and EdDSA need jwks_url or public_key_file, and nothing else does"
    if one.jwks_url and not is_web_url(one.jwks_url):
        yield f"jwks_url: {NOT_A_WEB_URL}"


def _hooks(settings: Settings) -> Iterator[tuple[str, str]]:
    hooks = settings.features.of(HookSettings)
    urls = {"access_url": hooks.access_url, "connect_url": hooks.connect_url, "rpc_url": hooks.rpc_url}
    for name, url in urls.items():
        if url and not is_web_url(url.reveal()):
            yield name, NOT_A_WEB_URL
        if url and not (hooks.hook_secret or hooks.hook_secret_file):
            yield name, f"requests are signed: set hook_secret_file; make one with: {MAKE_SECRET}"
    if hooks.connect_url and "*" in settings.client_port.allowed_origins:
        # Cookies then identify users: any page could act as whoever visits it.
        yield "allowed_origins", "with connect_url name the origins of your pages, not *"
    for name in hooks.connect_headers:
        if not re.fullmatch(r"[a-z0-9-]{1,64}", name) or name in NOT_FORWARDED or name.startswith("webhook-"):
            yield "connect_headers", f"{name!r}: expected a header like cookie or x-session, in lower case"
    if hooks.connect_url and not hooks.connect_headers:
        yield "connect_headers", "connect_url needs at least one header that says who a client is"
    if bool(hooks.rpc_url) != bool(hooks.rpc_events):
        yield "rpc_events", "rpc_url and rpc_events are needed together"
    try:
        events = parse_events(hooks.rpc_events)
    except ValueError as wrong:
        events = {}
        yield "rpc_events", str(wrong)
    features = {feature.path: feature for feature in FEATURES}
    for path, names in events.items():
        if path not in features:
            yield "rpc_events", f"{path}: there is no such namespace"
        elif own := set(names) & {*features[path].events, REFRESH.name}:
            yield "rpc_events", f"{own.pop()}: the server itself answers this event"
    if hooks.hook_secret and hooks.hook_secret_file:
        yield "hook_secret_file", "hook_secret is set too; set only one of them"
    if hooks.hook_secret and (why := secret_fault(hooks.hook_secret.reveal())):
        yield "hook_secret", why


def _store(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.valkey.valkey_url and (why := fault_of(settings.valkey.valkey_url.reveal())):
        yield "valkey_url", why
    yield from _valkey_passwords(settings.valkey)
    if settings.valkey.min_replicas_to_ack and not settings.valkey.valkey_url:
        yield "min_replicas_to_ack", "the embedded Valkey has no replicas; set valkey_url"
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", settings.valkey.valkey_prefix):
        yield "valkey_prefix", "expected 1 to 64 letters, digits, dots, dashes, underscores"
    if settings.process.node_id and not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", settings.process.node_id):
        yield "node_id", "expected 1 to 32 letters, digits, dashes, underscores; a dot ends it in session ids"
    if not settings.tokens.data_dir:
        yield "data_dir", "expected a folder"
    access = settings.features.of(TicketSettings).access
    if access and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", access):
        yield "access", "expected package.module:factory"
    if not settings.client_port.transports or set(settings.client_port.transports) - TRANSPORTS:
        yield "transports", "expected polling, websocket or both"


def _valkey_passwords(settings: ValkeySettings) -> Iterator[tuple[str, str]]:
    text = settings.valkey_url.reveal()
    url = None if fault_of(text) else parse(text)
    if settings.valkey_password_file and (url is None or url.options.get("password")):
        why = "valkey_url has a password too; set only one of them" if url else "it needs a valkey_url"
        yield "valkey_password_file", why
    if settings.sentinel_password_file and (url is None or url.topology is not Topology.SENTINEL):
        yield (
            "sentinel_password_file",
            "it needs a valkey_url that begins with valkey+sentinel:// or valkeys+sentinel://",
        )
    elif settings.sentinel_password_file and url is not None and url.sentinel_options.get("password"):
        yield "sentinel_password_file", "valkey_url has a sentinel_password too; set only one of them"


def _limits(settings: Settings) -> Iterator[tuple[str, str]]:
    values = flat(settings)
    for name in (
        "max_payload_bytes",
        "max_connect_bytes",
        "max_event_bytes",
        "max_outbox_bytes",
        "volatile_outbox_bytes",
    ):
        if 0 < values[name] < LEAST_BYTES:
            yield name, f"expected {LEAST_BYTES} or more, or 0"
    if 0 < settings.outbox.max_outbox_events < LEAST_EVENTS:
        yield "max_outbox_events", f"expected {LEAST_EVENTS} or more, or 0"
    if settings.event_log.max_event_bytes > settings.outbox.max_outbox_bytes:
        yield "max_event_bytes", "it is over max_outbox_bytes: one event would close every client that gets it"
    if settings.outbox.volatile_outbox_bytes > settings.outbox.max_outbox_bytes:
        yield "volatile_outbox_bytes", "it is over max_outbox_bytes: volatile events would close clients"
    for event, text in settings.dispatch.rate_limits.items():
        try:
            parse_rate(text)
        except ValueError as why:
            yield "rate_limits", f"{event}: {why}"


def _address_misfit(text: str) -> str:
    """Return what is wrong with an address to listen on, or ""."""
    if text == "*":
        return "write :: for all addresses of IPv4 and IPv6"
    if "[" in text or "]" in text:
        return "write an IPv6 address without brackets"
    if re.fullmatch(r"[^:]*:\d*", text):
        return "the port is a setting of its own"
    if parse_address(text) is None and not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", text):
        return "it is neither an address nor a name"
    return ""


def _is_unspecified(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_unspecified
    except ValueError:
        return False  # a name
