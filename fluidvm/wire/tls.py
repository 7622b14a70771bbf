"""TLS for the listeners."""

from __future__ import annotations

from pathlib import Path

from OpenSSL import SSL, crypto
from twisted.internet.ssl import CertificateOptions, TLSVersion


class TLSError(Exception):
    """A certificate or key can't be used, in one sentence."""


def server_options(certificate: Path, key: Path) -> CertificateOptions:
    """
    Read a server's certificate and key.

    @param certificate: a PEM file: the server's certificate, then those that lead to its authority.
    @param key: a PEM file without a passphrase.
    @return: TLS 1.2 at least.
    @raise TLSError: a file can't be read, holds nothing of the kind, or the two don't belong together.
    """
    chain = [
        crypto.load_certificate(crypto.FILETYPE_PEM, b"-----BEGIN CERTIFICATE-----" + part)
        for part in _read(certificate, "certificate").split(b"-----BEGIN CERTIFICATE-----")[1:]
        if _certificate_at(certificate, part)
    ]
    if not chain:
        raise TLSError(f"certificate {certificate}: holds no PEM certificate")
    try:
        private = crypto.load_privatekey(crypto.FILETYPE_PEM, _read(key, "key"), passphrase=b"")
    except (crypto.Error, ValueError, TypeError):
        raise TLSError(f"key {key}: holds no PEM private key without a passphrase") from None
    context = SSL.Context(SSL.TLS_METHOD)
    try:
        context.use_privatekey(private)
        context.use_certificate(chain[0])
        context.check_privatekey()
    except SSL.Error:
        raise TLSError(f"certificate {certificate} and key {key} don't belong together") from None
    return CertificateOptions(
        privateKey=private, certificate=chain[0], extraCertChain=chain[1:], raiseMinimumTo=TLSVersion.TLSv1_2
    )


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TLSError(f"{what} {path}: {error.strerror}") from None


def _certificate_at(path: Path, part: bytes) -> bool:
    try:
        crypto.load_certificate(crypto.FILETYPE_PEM, b"-----BEGIN CERTIFICATE-----" + part)
    except (crypto.Error, ValueError):
        raise TLSError(f"certificate {path}: holds a PEM certificate that can't be read") from None
    return True
