"""TLS for the listeners: its parameters, and files that may change while the server runs."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import AcceptableCiphers, CertificateOptions, TLSVersion
from twisted.logger import Logger
from zope.interface import implementer

_BEGIN = b"-----BEGIN CERTIFICATE-----"
# TLS 1.2 with forward secrecy and authenticated encryption only (RFC 9325, section 4.2); TLS 1.3 has nothing else.
CIPHERS = AcceptableCiphers.fromOpenSSLCipherString("ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL:!PSK")
SOON = timedelta(days=14)
CLIENTS = ("required", "optional")


class TLSError(Exception):
    """A certificate or key can't be used. The message is one sentence."""


@dataclass(frozen=True)
class TLSFiles:
    """
    The files that the options name.

    @ivar certificate: a PEM file: the certificate of the server, then its chain.
    @ivar key: a PEM file without a passphrase.
    @ivar client_ca: a PEM file of the authorities that issue client certificates; C{None}: clients are not asked for one.
    @ivar clients: C{required} or C{optional}: whether clients must present a certificate.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    clients: str = "required"

    def stamp(self) -> tuple[object, ...]:
        """Return a value that changes when one of the files changes. Blocks."""
        paths = [self.certificate, self.key] + ([] if self.client_ca is None else [self.client_ca])
        return tuple(_stamp(path) for path in paths)


def server_options(files: TLSFiles, now: datetime | None = None) -> CertificateOptions:
    """
    Read and check the TLS files. Blocks.

    @param now: default: the current time.
    @return: options for TLS 1.2 or later.
    @raise TLSError: a file can't be read or has the wrong content, certificate and key do not match, the chain is not valid,
        the certificate has expired or is not valid yet, or everyone can write the key.
    """
    chain = _certificates(files.certificate, "certificate")
    try:
        private = crypto.load_privatekey(crypto.FILETYPE_PEM, _read(files.key, "key"), passphrase=b"")
    except (crypto.Error, ValueError, TypeError):
        raise TLSError(f"key {files.key}: contains no PEM private key without a passphrase") from None
    context = SSL.Context(SSL.TLS_METHOD)
    try:
        context.use_privatekey(private)
        context.use_certificate(chain[0])
        context.check_privatekey()
    except SSL.Error:
        raise TLSError(f"certificate {files.certificate} and key {files.key} do not match") from None
    _check_chain(files.certificate, [certificate.to_cryptography() for certificate in chain])
    _check_times(files.certificate, chain[0].to_cryptography(), now or datetime.now(UTC))
    if files.key.stat().st_mode & stat.S_IWOTH:
        raise TLSError(f"key {files.key}: everyone can write it: use chmod 600")
    authorities = None if files.client_ca is None else _certificates(files.client_ca, "client authority")
    options = CertificateOptions(
        privateKey=private,
        certificate=chain[0],
        extraCertChain=chain[1:],
        raiseMinimumTo=TLSVersion.TLSv1_2,
        acceptableCiphers=CIPHERS,
        verify=authorities is not None,
        caCerts=authorities,
        requireCertificate=files.clients == "required",
    )
    # Without tickets a session ends with its connection: it can't be resumed after a client's certificate was revoked.
    options.getContext().set_options(SSL.OP_NO_TICKET | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_RENEGOTIATION)
    return options


def advice(files: TLSFiles, now: datetime | None = None) -> list[str]:
    """Return warnings for the operator about files that work, as sentences. Blocks."""
    found = []
    ends = _certificates(files.certificate, "certificate")[0].to_cryptography().not_valid_after_utc
    if ends - (now or datetime.now(UTC)) < SOON:
        found.append(f"certificate {files.certificate}: expires on {ends:%Y-%m-%d}: renew it")
    if files.key.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        found.append(f"key {files.key}: users other than its owner can read it: use chmod 600")
    return found


@implementer(IOpenSSLServerConnectionCreator)
class Certificates:
    """
    Makes the server side of TLS connections, from files that can change: new connections use the latest valid files, and
    open connections continue.

    @ivar trouble: why the latest files are not used, or could not be; empty if they are.
    @param files: read at once.
    @raise TLSError: as L{server_options}.
    """

    _log = Logger()

    def __init__(self, files: TLSFiles) -> None:
        self.trouble = ""
        self._files = files
        self._stamp = files.stamp()
        self._options = server_options(files)
        self._advise()

    def serverConnectionForTLS(self, protocol: object) -> SSL.Connection:
        """Called for each connection."""
        return SSL.Connection(self._options.getContext(), None)

    def reload(self, always: bool = False) -> None:
        """
        Reload the files if they have changed. If they are not valid, log it and keep using the old ones. Blocks.

        @param always: reload even if they seem unchanged.
        """
        stamp = self._files.stamp()
        if stamp == self._stamp and not always:
            return
        self._stamp = stamp
        try:
            self._options = server_options(self._files)
        except (TLSError, OSError) as error:
            self.trouble = f"the previous certificate stays in use: {error}"
            self._log.error("TLS: {trouble}", trouble=self.trouble)
            return
        self.trouble = ""
        self._log.info("TLS: {certificate} was reloaded", certificate=str(self._files.certificate))
        self._advise()

    def look(self) -> None:
        """Check that the user that the server now runs as can reload the files. Blocks."""
        try:
            server_options(self._files)
        except (TLSError, OSError) as error:
            self.trouble = f"a renewed certificate can't be loaded: {error}"
            self._log.error("TLS: {trouble}", trouble=self.trouble)

    def _advise(self) -> None:
        for sentence in advice(self._files):
            self._log.warn("TLS: {advice}", advice=sentence)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _check_chain(path: Path, chain: list[x509.Certificate]) -> None:
    """Check that each certificate is issued by the next one (RFC 8446, section 4.4.2)."""
    for certificate, issuer in pairwise(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except Exception:  # ValueError, TypeError, InvalidSignature: all mean that it was not
            raise TLSError(
                f"certificate {path}: {issuer.subject.rfc4514_string()} did not issue "
                f"{certificate.subject.rfc4514_string()}: put the server's certificate first, then the issuer of each one"
            ) from None


def _check_times(path: Path, certificate: x509.Certificate, now: datetime) -> None:
    if now > certificate.not_valid_after_utc:
        raise TLSError(f"certificate {path}: expired on {certificate.not_valid_after_utc:%Y-%m-%d}")
    if now < certificate.not_valid_before_utc:
        raise TLSError(f"certificate {path}: is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")


def _certificates(path: Path, what: str) -> list[crypto.X509]:
    found = []
    for part in _read(path, what).split(_BEGIN)[1:]:
        try:
            found.append(crypto.load_certificate(crypto.FILETYPE_PEM, _BEGIN + part))
        except (crypto.Error, ValueError):
            raise TLSError(f"{what} {path}: contains a PEM certificate that can't be read") from None
    if not found:
        raise TLSError(f"{what} {path}: contains no PEM certificate")
    return found


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError as error:
        raise TLSError(
            f"{what} {path}: {error.strerror}: make it readable for user {os.geteuid()}, as which the server runs, "
            "or restart the server after each renewal"
        ) from None
    except OSError as error:
        raise TLSError(f"{what} {path}: {error.strerror}") from None
