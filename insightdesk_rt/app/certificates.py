"""Loads the certificate and key of TLS at the start, and again on SIGHUP, without losing a connection.

An SSL context accepts a new certificate while it is in use: existing connections keep the old one, new connections get
the new one. The files are tried on a separate context first, so that a bad pair never replaces a good one.
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
    """The certificate and key of the settings, with one SSL context per port. Raises ConfigError."""

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
        """Reload both files for new connections, and log the result. On any failure the old pair stays in use."""
        if not self._cert:
            log.info("no certificate to reload: tls_cert_file is not set")
            return
        try:
            self._check()
            for context in self._contexts:
                context.load_cert_chain(self._cert, self._key, _no_password)
            shown = x509.load_pem_x509_certificate(Path(self._cert).read_bytes())
        except (ConfigError, OSError, ValueError) as why:
            log.error("the certificate was not reloaded; the old one stays in use", extra={"why": str(why)})
            return
        ends = shown.not_valid_after_utc.isoformat()
        log.info("certificate reloaded", extra={"serial": f"{shown.serial_number:x}", "ends": ends})

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
    """Give an empty password: otherwise OpenSSL would ask for the password of a key on the terminal, and wait."""
    return ""
