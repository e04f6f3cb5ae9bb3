"""Certificate and key of our ports: errors in the files, and reloading both while connections stay open."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from insightdesk_rt.app.certificates import Certificates, TlsSettings
from insightdesk_rt.app.config import ConfigError
from tests.support.aio import aio
from tests.support.certificates import certificate


def named(cert: Path, key: Path) -> TlsSettings:
    return TlsSettings(tls_cert_file=str(cert), tls_key_file=str(key))


def test_the_error_for_an_invalid_file_names_it_in_one_line(tmp_path: Path) -> None:
    good, other = certificate(tmp_path / "good.pem"), certificate(tmp_path / "other.pem")
    empty, folder = tmp_path / "empty.pem", tmp_path / "folder"
    empty.write_bytes(b"")
    folder.mkdir()
    locked = tmp_path / "locked.pem"
    secret = serialization.BestAvailableEncryption(b"hunter2")
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    locked.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*pem, secret))
    for cert, key, said in (
        (tmp_path / "gone.pem", good, f"tls_cert_file = {tmp_path}/gone.pem: No such file or directory"),
        (folder, good, f"tls_cert_file = {folder}: Is a directory"),
        (empty, good, f"tls_cert_file = {empty}: it holds no certificate in PEM"),
        (good, tmp_path / "gone.pem", f"tls_key_file = {tmp_path}/gone.pem: No such file or directory"),
        (good, other, f"tls_key_file = {other}: it is not the key of the certificate in tls_cert_file"),
        (good, empty, f"tls_key_file = {empty}: it holds no private key in PEM, or one with a password"),
        (good, locked, f"tls_key_file = {locked}: it holds no private key in PEM, or one with a password"),
    ):
        with pytest.raises(ConfigError) as refused:
            Certificates(named(cert, key))
        assert str(refused.value) == said
    assert Certificates(TlsSettings()).context() is None


async def serial(port: int) -> int:
    """Return the serial number of the certificate that a new connection gets."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(shown).serial_number


@aio
async def test_new_connections_get_the_certificate_that_was_loaded_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An invalid pair is logged, and the old pair stays in use."""
    caplog.set_level(logging.INFO)
    file = certificate(tmp_path / "both.pem")
    first = x509.load_pem_x509_certificate(file.read_bytes()).serial_number
    certificates = Certificates(named(file, file))
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=certificates.context())
    port = server.sockets[0].getsockname()[1]
    assert await serial(port) == first
    file.write_bytes(b"half a certific")
    certificates.reload()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert await serial(port) == first
    second = x509.load_pem_x509_certificate(certificate(file).read_bytes()).serial_number
    certificates.reload()
    assert vars(caplog.records[-1])["serial"] == f"{second:x}"
    assert await serial(port) == second != first
    server.close()


def test_a_server_without_a_certificate_logs_that_there_is_nothing_to_reload(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Certificates(TlsSettings()).reload()
    assert "tls_cert_file is not set" in caplog.text
