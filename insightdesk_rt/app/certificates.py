"""The certificate and key of TLS on our own ports: loaded at the start, and again on SIGHUP, without a connection lost.

A context takes another certificate while it is in use: connections that there are keep theirs, new ones are shown the
new one. What cannot be used is found out on a context of its own first, so that the old pair stays whole.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Annotated

from cryptography import x509

from insightdesk_rt.engine.errors import ConfigError
from insightdesk_rt.engine.settings import Help, SettingsPart

log = logging.getLogger(__name__)


class TlsSettings(SettingsPart, frozen=True):
    tls_cert_file: Annotated[str, Help("certificate chain (PEM), to serve TLS without a proxy")] = ""
    tls_key_file: Annotated[str, Help("private key of the certificate (PEM)")] = ""


class Certificates:
    """The pair that `tls_cert_file` and `tls_key_file` name, for one context per port. Raises ConfigError."""

    def __init__(self, settings: TlsSettings) -> None:
        self._cert = settings.tls_cert_file
        self._key = settings.tls_key_file
        self._contexts: list[ssl.SSLContext] = []
        if self._cert:
            self._check()

    def context(self) -> ssl.SSLContext | None:
        """Return a context for a port, None where no certificate is set. Raises ConfigError."""
        if not self._cert:
            return None
        made = self._check()
        self._contexts.append(made)
        return made

    def reload(self) -> None:
        """Load both files again for new connections. Logs how it went; on any failure the old pair goes on."""
        if not self._cert:
            log.info("nothing to load again: tls_cert_file is not set")
            return
        try:
            self._check()
            for context in self._contexts:
                context.load_cert_chain(self._cert, self._key, _no_password)
            shown = x509.load_pem_x509_certificate(Path(self._cert).read_bytes())
        except (ConfigError, OSError, ValueError) as why:
            log.error("the certificate was not loaded again; the old one goes on", extra={"why": str(why)})
            return
        ends = shown.not_valid_after_utc.isoformat()
        log.info("certificate loaded again", extra={"serial": f"{shown.serial_number:x}", "ends": ends})

    def _check(self) -> ssl.SSLContext:
        """Return a context with the pair. Raises ConfigError naming the setting and its file."""
        for name, file in (("tls_cert_file", self._cert), ("tls_key_file", self._key)):
            try:
                Path(file).read_bytes()
            except OSError as why:
                raise ConfigError(f"{name} = {file}: {why.strerror}") from None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            x509.load_pem_x509_certificate(Path(self._cert).read_bytes())
        except ValueError:
            raise ConfigError(f"tls_cert_file = {self._cert}: it holds no certificate in PEM") from None
        try:
            context.load_cert_chain(self._cert, self._key, _no_password)
        except ssl.SSLError as why:
            mismatch = "it is not the key of the certificate in tls_cert_file"
            what = mismatch if "MISMATCH" in str(why) else "it holds no private key in PEM, or one with a password"
            raise ConfigError(f"tls_key_file = {self._key}: {what}") from None
        return context


def _no_password() -> str:
    """OpenSSL would ask on the terminal for the password of a key that has one, and wait."""
    return ""
