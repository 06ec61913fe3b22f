"""A certificate authority of one's own, a server's certificate, and clients' keys: files in one folder.

ca.crt goes to every client, which trusts no other authority for its server. ca.key stays with whoever makes
certificates. Client keys (NIST P-384, OpenSSH format) are Flower's way to know a SuperNode: clients/NAME.key goes to
that client and nowhere else, keys/NAME.pub stays with the server (--authorized-keys).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wordflock.addresses import host_name
from wordflock.errors import WordflockError
from wordflock.files import read_named, write_atomically

HERE = ("localhost", "127.0.0.1", "::1")  # the server's own processes come by these
DAYS = 3650
CA_NAME = "Wordflock CA"


def make_certificates(folder: Path, names: Sequence[str], clients: Sequence[str]) -> list[Path]:
    """Make what is missing: the authority, once; a new certificate of the server with each call; keys of new clients.

    `names` are the host names and addresses that clients know the server by. Returns the files written. Raises
    WordflockError where the folder has an authority that cannot be read.
    """
    for client in clients:
        if not client or client != Path(client).name or client.startswith("."):
            raise WordflockError(f"A client cannot be called {client!r}: its name becomes a file's name.")
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in dict.fromkeys((*names, *HERE))])
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    ca_key, ca = _authority(folder, written)
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (names or HERE)[0][:64])])
    certificate = (
        _builder(subject, ca.subject, key.public_key())
        .add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    written += [_write_private(folder / "server.key", key, PrivateFormat.PKCS8)]
    written += [_write(folder / "server.crt", certificate.public_bytes(Encoding.PEM))]
    for client in clients:
        path, public = folder / "clients" / f"{client}.key", folder / "keys" / f"{client}.pub"
        if path.exists() or public.exists():
            continue  # a key that is in use already
        own = ec.generate_private_key(ec.SECP384R1())
        written += [_write_private(path, own, PrivateFormat.OpenSSH)]
        written += [_write(public, own.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))]
    return written


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """A client's public key. Raises WordflockError for what is none."""
    try:
        key = load_ssh_public_key(read_named(path))
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("it is of another kind")
        return key
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "a public key", error) from error


def check_private_key(path: Path) -> None:
    """Raises WordflockError for what is not a client's key: a SuperNode would end, and be started again."""
    try:
        if not isinstance(load_ssh_private_key(read_named(path), None), ec.EllipticCurvePrivateKey):
            raise ValueError("it is of another kind")
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _no_key(path, "a client's key", error) from error


def _no_key(path: Path, kind: str, error: Exception) -> WordflockError:
    reason = getattr(error, "strerror", None) or error
    return WordflockError(f"{path} is not {kind} ({reason}); make one with 'wordflock certificates'.")


def _authority(folder: Path, written: list[Path]) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_file, file = folder / "ca.key", folder / "ca.crt"
    if key_file.exists() or file.exists():
        try:
            key = load_pem_private_key(key_file.read_bytes(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            return key, x509.load_pem_x509_certificate(file.read_bytes())
        except (OSError, ValueError, TypeError, AssertionError) as error:
            raise WordflockError(
                f"{folder} has a certificate authority that cannot be read (ca.key, ca.crt); take another folder."
            ) from error
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CA_NAME)])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    written += [_write_private(key_file, key, PrivateFormat.PKCS8)]
    written += [_write(file, certificate.public_bytes(Encoding.PEM))]
    return key, certificate


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    # Boards without a battery start with a clock that is behind.
    start = datetime.now(UTC) - timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=DAYS))
    )


def _general_name(name: str) -> x509.GeneralName:
    """An address, or a host name, which may begin with "*."."""
    with suppress(ValueError):
        if "%" not in name:
            return x509.IPAddress(ip_address(name))
    host = host_name(name.removeprefix("*."))
    if not host:
        raise WordflockError(
            f"--name {name[:80]!r} is neither a host name nor an address; give it without a scheme, port, network or "
            "spaces, such as pi.local or 192.168.1.10."
        )
    return x509.DNSName(f"*.{host}" if name.startswith("*.") else host)


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey, form: PrivateFormat) -> Path:
    before = os.umask(0o077)  # from its first byte on, nobody else reads it
    try:
        return _write(path, key.private_bytes(Encoding.PEM, form, NoEncryption()))
    finally:
        os.umask(before)


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path
