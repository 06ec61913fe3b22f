"""Certificates: a TLS handshake with them, and what must not happen to files that are there."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from wordflock.devices.certificates import check_private_key, make_certificates, read_public_key
from wordflock.devices.connection import tls_files
from wordflock.errors import WordflockError


def handshake(folder: Path, ca: Path, name: str) -> str:
    """The TLS version that a client with the CA agrees on with the folder's server; raises as the client does."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            raw, _ = listener.accept()
            with raw, suppress(OSError):  # the client's refusal, which ssl.SSLError is too
                server.wrap_socket(raw, server_side=True).close()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            client = ssl.create_default_context(cafile=str(ca))
            client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
            raw = socket.create_connection(listener.getsockname())
            with raw, client.wrap_socket(raw, server_hostname=name) as connection:
                return connection.version() or ""
        finally:
            thread.join()


@pytest.mark.parametrize("name", ["server.example", "192.168.7.9", "localhost", "127.0.0.1", "::1"])
def test_a_client_that_has_the_ca_trusts_the_server_by_its_names(name: str, tmp_path: Path) -> None:
    make_certificates(tmp_path, ["server.example", "192.168.7.9"], [])
    assert handshake(tmp_path, tmp_path / "ca.crt", name).startswith("TLSv1.")


def test_another_name_and_another_ca_are_not_trusted(tmp_path: Path) -> None:
    make_certificates(tmp_path / "ours", ["server.example"], [])
    make_certificates(tmp_path / "theirs", ["server.example"], [])
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(tmp_path / "ours", tmp_path / "ours" / "ca.crt", "elsewhere.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path / "ours", tmp_path / "theirs" / "ca.crt", "server.example")


def test_the_authority_and_keys_that_are_there_stay(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["a.example"], ["kitchen"])
    kept = {
        name: (tmp_path / name).read_bytes() for name in ("ca.crt", "ca.key", "clients/kitchen.key", "keys/kitchen.pub")
    }
    written = make_certificates(tmp_path, ["b.example"], ["kitchen", "garage"])
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    assert sorted(path.name for path in written) == ["garage.key", "garage.pub", "server.crt", "server.key"]
    assert handshake(tmp_path, tmp_path / "ca.crt", "b.example")


def test_keys_are_pairs_that_only_their_owner_reads(tmp_path: Path) -> None:
    make_certificates(tmp_path, [], ["kitchen"])
    private = load_ssh_private_key((tmp_path / "clients" / "kitchen.key").read_bytes(), None)
    public = load_ssh_public_key((tmp_path / "keys" / "kitchen.pub").read_bytes())
    assert private.public_key() == public
    for secret in ("ca.key", "server.key", "clients/kitchen.key"):
        assert (tmp_path / secret).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["../kitchen", "a/b", ".hidden", ""])
def test_a_client_s_name_is_no_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(WordflockError, match="cannot be called"):
        make_certificates(tmp_path / "tls", [], [name])


def test_a_broken_authority_is_not_replaced(tmp_path: Path) -> None:
    make_certificates(tmp_path, [], [])
    (tmp_path / "ca.key").write_text("nonsense")
    with pytest.raises(WordflockError, match="cannot be read"):
        make_certificates(tmp_path, [], [])


@pytest.mark.parametrize(
    "name",
    ["http://x:8000", "x:8000", "10.0.0.0/8", "", " ", "a b", "a" * 300, "-x.example", "x..example", "10.0.0", "x/y"],
)
def test_a_name_that_no_server_can_have_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(WordflockError, match=r"^--name .* is neither a host name nor an address"):
        make_certificates(tmp_path / "certificates", [name], [])
    assert not (tmp_path / "certificates").exists()


@pytest.mark.parametrize("name", ["pi.local", "*.example.com", "my_board", "bücher.example", "fe80::1", "PI.local."])
def test_a_name_that_a_server_may_have_is_taken(name: str, tmp_path: Path) -> None:
    assert make_certificates(tmp_path, [name], [])


@pytest.mark.parametrize("file", ["ca.crt", "server.crt", "server.key"])
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_certificates_that_cannot_be_used_are_refused(file: str, content: bytes, tmp_path: Path) -> None:
    make_certificates(tmp_path, [], [])
    assert tls_files(str(tmp_path))
    (tmp_path / file).write_bytes(content)
    with pytest.raises(WordflockError, match=r"The certificates in .* cannot be used \(.+\); make others"):
        tls_files(str(tmp_path))


def test_a_key_of_another_certificate_and_one_with_a_password_are_refused(tmp_path: Path) -> None:
    make_certificates(tmp_path, [], [])
    key = load_pem_private_key((tmp_path / "server.key").read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "server.key").write_bytes(locked)
    with pytest.raises(WordflockError, match="cannot be used"):
        tls_files(str(tmp_path))
    (tmp_path / "server.key").write_bytes((tmp_path / "ca.key").read_bytes())
    with pytest.raises(WordflockError, match=r"the key is another certificate's"):
        tls_files(str(tmp_path))


def test_what_is_not_a_client_s_key_is_refused(tmp_path: Path) -> None:
    make_certificates(tmp_path, [], ["kitchen"])
    check_private_key(tmp_path / "clients" / "kitchen.key")
    assert read_public_key(tmp_path / "keys" / "kitchen.pub")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("hello")
    os.mkfifo(tmp_path / "pipe")
    for wrong in ("empty", "text", "pipe", "nothing", "keys/kitchen.pub", "server.key", "ca.crt", "."):
        with pytest.raises(WordflockError, match=r"is not a client's key \(.+\); make one"):
            check_private_key(tmp_path / wrong)
    (tmp_path / "rsa").write_text("ssh-rsa AAAA")
    (tmp_path / "dss").write_text("ssh-dss AAAAB3NzaC1kc3M=")
    for wrong in ("empty", "text", "pipe", "nothing", "rsa", "dss", "clients/kitchen.key", "ca.crt"):
        with pytest.raises(WordflockError, match=r"is not a public key \(.+\); make one"):
            read_public_key(tmp_path / wrong)
