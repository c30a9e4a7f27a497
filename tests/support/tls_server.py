"""A PostgreSQL that speaks TLS, with a certificate of its own authority: the embedded one has none built in.

libpq's side of it is the real thing: the request for TLS, OpenSSL's handshake, the check of certificate and host name.
The decrypted bytes go on to the real server.
"""

from __future__ import annotations

import contextlib
import datetime
import selectors
import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_WANTS_TLS = bytes.fromhex("00000008 04d2162f")


@dataclass(frozen=True)
class Authority:
    """A certificate authority; ``root`` is its own certificate, for sslrootcert."""

    root: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, folder: Path, name: str) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        certificate = _certificate(subject, subject, key, key).add_extension(constraints, True).sign(key, hashes.SHA256())
        root = folder / f"{name}.pem"
        root.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(root, key, certificate)

    def issue(self, folder: Path, host: str) -> Path:
        """A certificate for a host with its key, in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        signed = _certificate(subject, self.certificate.subject, key, self.key).add_extension(names, False)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = folder / f"{host}-by-{self.root.stem}.pem"
        file.write_bytes(private + signed.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return file


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)


class TlsServer:
    """Listens on ``port`` of every name of this host, and passes decrypted sessions on to the server at ``to``.

    Args:
        certificate: With its key; None refuses TLS, as a server without it does.
    """

    def __init__(self, to: int, certificate: Path | None) -> None:
        self._to = to
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.encrypted = 0
        self.plain = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            opened.enter_context(client)
            first = client.recv(8, socket.MSG_WAITALL)
            inner: socket.socket = client
            if first == _WANTS_TLS:
                client.sendall(b"N" if self._context is None else b"S")
                if self._context is not None:
                    inner = opened.enter_context(self._context.wrap_socket(client, server_side=True))
                    self.encrypted += 1
                first = b""
            if inner is client:
                self.plain += 1
            server = opened.enter_context(socket.create_connection(("127.0.0.1", self._to)))
            server.sendall(first)
            _pump(inner, server)


def _pump(inner: socket.socket, server: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        for one, other in ((inner, server), (server, inner)):
            selector.register(one, selectors.EVENT_READ, other)
        while True:
            for key, _ in selector.select():
                one = inner if key.fileobj is inner else server
                while True:
                    data = one.recv(65536)
                    if not data:
                        return
                    key.data.sendall(data)
                    if not (isinstance(one, ssl.SSLSocket) and one.pending()):
                        break
