"""The address of this machine for others on its network, as text and QR code, and a certificate for it."""

from __future__ import annotations

import datetime
import io
import ipaddress
import socket
import ssl
import sys
import tempfile
from pathlib import Path
from typing import Any

from deploy.libraries import not_installed, require
from engine.errors import UserError

INSTALL = "pip install -e '.[serve]'"
_VALID_DAYS = 30


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server on `host`. Browsers trust such pages without https."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reachable(host: str) -> str:
    """The address that others reach a server on `host` by: this machine's own if it serves on all of them."""
    if host not in ("0.0.0.0", "::", ""):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; only chooses the route
            return str(probe.getsockname()[0])
        except OSError:  # no network
            return "127.0.0.1"


def qr_code(text: str) -> str:
    """The QR code of `text` for the terminal; empty if it cannot be shown."""
    if not_installed(["segno"]) or not (sys.stdout.encoding or "").lower().startswith("utf"):
        return ""
    drawn = io.StringIO()
    require("segno", INSTALL).make(text, error="l", micro=False).terminal(out=drawn, compact=True, border=2)
    return drawn.getvalue()


def own_context(certificate: str, key: str) -> ssl.SSLContext:
    """https with the user's own certificate. Raises: UserError if the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not a certificate"
        raise UserError(f"certificate={certificate} key={key}: cannot be loaded ({reason})") from None
    return context


def self_signed_context(address: str) -> ssl.SSLContext:
    """https with a new certificate for `address`, signed by itself: browsers ask the user to trust it.

    Raises:
        UserError: if the library is not installed.
    """
    certificate = _self_signed(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory(prefix="certificate-") as folder:
        file = Path(folder) / "certificate.pem"
        file.touch(mode=0o600)
        file.write_bytes(certificate)
        context.load_cert_chain(file)
    return context


def _self_signed(address: str) -> bytes:
    """A key and its certificate, PEM."""
    x509 = require("cryptography.x509", INSTALL)
    hashes = require("cryptography.hazmat.primitives.hashes", INSTALL)
    curves = require("cryptography.hazmat.primitives.asymmetric.ec", INSTALL)
    forms = require("cryptography.hazmat.primitives.serialization", INSTALL)
    key = curves.generate_private_key(curves.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mobilenet-dense")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(_names(x509, address)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    return bytes(private + certificate.public_bytes(forms.Encoding.PEM))


def _names(x509: Any, address: str) -> list[Any]:
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    try:
        return [*names, x509.IPAddress(ipaddress.ip_address(address))]
    except ValueError:
        return [*names, x509.DNSName(address)]
