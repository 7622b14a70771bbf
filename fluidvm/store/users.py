"""What the store has of users beside the objects: password hashes, second factors and logins."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from fluidvm.store.schema import known_addresses, users


class Credentials(NamedTuple):
    """
    The credentials of a user.

    @ivar totp_secret: the secret of the second factor; empty if there is none.
    @ivar totp_last: the time step of the last code that was used.
    """

    password_hash: str
    totp_secret: str
    totp_last: int


def credentials(connection: Connection, name: str) -> Credentials | None:
    """Read the credentials of a user; C{None} if there is no such user."""
    found = connection.execute(
        select(users.c.password_hash, users.c.totp_secret, users.c.totp_last).where(users.c.name == name)
    ).first()
    return None if found is None else Credentials(*found)


def logged_in(
    connection: Connection, user: int, when: float, network: str, proved: Credentials, step: int, rehashed: str
) -> bool:
    """
    Store a login. It is not a change that C{ping} reports, because each authenticate would cause one.

    @param network: the network that the client is in.
    @param proved: the credentials that the login was checked against.
    @param step: the time step of the second factor's code; 0 if no code was required.
    @param rehashed: a new hash of the password; empty: keep the hash.
    @return: false if the password or the second factor was changed, or the code was used, since the check.
    """
    still = (
        (users.c.id == user)
        & (users.c.password_hash == proved.password_hash)
        & (users.c.totp_secret == proved.totp_secret)
        & (users.c.totp_last == proved.totp_last)
    )
    values = {"last_login": when}
    if step:
        values["totp_last"] = step
    if rehashed:
        values["password_hash"] = rehashed  # type: ignore[assignment]
    if not connection.execute(update(users).where(still).values(values)).rowcount:
        return False
    here = (known_addresses.c.user == user) & (known_addresses.c.address == network)
    if not connection.execute(update(known_addresses).where(here).values(last=when)).rowcount:
        connection.execute(insert(known_addresses).values(user=user, address=network, last=when))
    return True


def load_known(connection: Connection, most: int) -> list[tuple[int, str]]:
    """
    Read the networks that users have logged in from, the latest last.

    @param most: the maximum number per user; older ones are deleted.
    """
    table = known_addresses
    found: dict[int, list[tuple[int, str]]] = {}
    for user, network in connection.execute(select(table.c.user, table.c.address).order_by(table.c.last.desc())):
        kept = found.setdefault(user, [])
        if len(kept) < most:
            kept.insert(0, (user, network))
        else:
            connection.execute(delete(table).where((table.c.user == user) & (table.c.address == network)))
    return [pair for pairs in found.values() for pair in pairs]
