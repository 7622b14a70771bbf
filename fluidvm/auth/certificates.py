"""Maps client certificates to users."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from OpenSSL import crypto


class MappingError(Exception):
    """The file that maps certificates to users is not valid; the text is one sentence."""


def read_mapping(path: Path) -> dict[str, str]:
    """
    Read the TOML file that maps names in certificates to users' names.

    A name in a certificate is its whole subject (RFC 4514), such as C{CN=alice,O=Example}, or an alternative name with its
    kind: C{email:alice@example.org}, C{dns:host.example.org}, C{uri:spiffe://example.org/alice}.

    @raise MappingError: the file can't be read or is not valid.
    """
    try:
        found = tomllib.loads(path.read_text())
    except OSError as error:
        raise MappingError(f"certificate users {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MappingError(f"certificate users {path}: {error}") from None
    for name, user in found.items():
        if not isinstance(user, str) or not user:
            raise MappingError(f'certificate users {path}: "{name}" must map to a user\'s name')
    return found


def names_in(certificate: crypto.X509) -> list[str]:
    """The names of a certificate, in the form that the mapping uses."""
    read = certificate.to_cryptography()
    names = [read.subject.rfc4514_string()] if read.subject else []
    try:
        alternatives = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return names
    for kind, cls in (("email", x509.RFC822Name), ("dns", x509.DNSName), ("uri", x509.UniformResourceIdentifier)):
        names += [f"{kind}:{value}" for value in alternatives.get_values_for_type(cls)]
    return names


def stands_for(certificate: object, name: str, mapping: Mapping[str, str]) -> bool:
    """
    Return whether a verified client certificate is mapped to a user.

    @param certificate: the certificate; C{None} if the client presented none.
    @param name: the user's name.
    """
    if not mapping or not isinstance(certificate, crypto.X509):
        return False
    return any(mapping.get(found) == name for found in names_in(certificate))
