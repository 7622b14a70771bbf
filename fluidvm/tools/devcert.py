"""
A self-signed certificate for development: C{python -m fluidvm.tools.devcert DIRECTORY [NAME...]}.

Writes C{cert.pem} and C{key.pem} (mode 0600) for localhost, its addresses, and the given names. The certificate is valid for
90 days. Clients trust it if they use C{cert.pem} as a certificate authority.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 90


def make(directory: Path, names: Iterable[str] = ()) -> tuple[Path, Path]:
    """
    Create a key and its certificate.

    @param names: DNS names and addresses in addition to those of localhost.
    @return: the paths of certificate and key.
    @raise FileExistsError: one of the files exists already; it is not replaced.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FluidVM development")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(list(map(_name, ["localhost", "127.0.0.1", "::1", *names]))), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    paths = directory / "cert.pem", directory / "key.pem"
    for path, content, mode in zip(
        paths, (certificate.public_bytes(serialization.Encoding.PEM), private), (0o644, 0o600), strict=True
    ):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
    return paths


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit("usage: python -m fluidvm.tools.devcert DIRECTORY [NAME...]")
    directory = Path(sys.argv[1])
    try:
        directory.mkdir(parents=True, exist_ok=True)
        certificate, key = make(directory, sys.argv[2:])
    except OSError as error:
        raise SystemExit(f"devcert: {error.filename}: {error.strerror}") from None
    print(f"--tls-cert {certificate} --tls-key {key}")  # noqa: T201


if __name__ == "__main__":
    main()
