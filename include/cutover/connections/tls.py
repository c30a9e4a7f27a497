"""TLS between this host and the target: the plan's demand on a connection string, and libpq's TLS errors explained.

libpq does the work (``sslmode``, ``sslrootcert`` and the like, from the extras of the Airflow connection). It does not
insist on TLS: without ``sslmode`` it accepts a session in plain text.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from include.cutover.errors import CannotCheck, Refused
from include.cutover.plan.access import Tls

_ENOUGH = {"require": ("require", "verify-ca", "verify-full"), "verify-full": ("verify-full",)}
OPTIONS = ("sslmode", "sslrootcert", "sslcrl", "sslcrldir", "sslcert", "sslkey", "sslsni", "ssl_min_protocol_version")


def demanded(conninfo: str, wanted: Tls | None, where: str) -> str:
    """Return the connection string with the ``sslmode`` that the plan demands, where it sets none itself.

    Args:
        conninfo: libpq connection string or URL.
        wanted: ``tls`` of the plan; None leaves the string as it is.
        where: Connection or option that it came from.

    Raises:
        Refused: When it asks for less, or uses a local socket, which has no TLS.
        CannotCheck: When libpq cannot read it.
    """
    if wanted is None:
        return conninfo
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    except ProgrammingError:  # its text quotes the string, which holds the password
        raise CannotCheck(
            "the connection string cannot be read by libpq", where=where, do="Correct the connection."
        ) from None
    require(given, wanted, where)
    return make_conninfo(conninfo, sslmode=given.get("sslmode") or wanted)


def require(given: Mapping[str, str], wanted: Tls, where: str) -> None:
    """Refuse less TLS than the plan demands; as ``demanded``, for the parts of a connection string."""
    hosts = (given.get("host") or os.environ.get("PGHOST") or "").split(",")
    numeric = given.get("hostaddr")
    if not numeric and any(host == "" or host.startswith(("/", "@")) for host in hosts):
        raise Refused(
            "the plan demands TLS, and a local socket has none",
            where=where,
            expected=f"a host, and sslmode={wanted}",
            do="Name the server's host in the connection.",
        )
    mode = given.get("sslmode") or os.environ.get("PGSSLMODE") or wanted
    if mode not in _ENOUGH[wanted]:
        raise Refused(
            "the connection asks for less than the plan demands",
            where=where,
            expected=f"sslmode={wanted}",
            found=f"sslmode={mode}",
            do="Correct sslmode in the extra of the connection, or tls in the plan.",
        )


def problem(found: str) -> tuple[str, str] | None:
    """Return meaning and remedy of libpq's message about a failed connection; None when TLS was not the cause."""
    text = found.lower()
    if "does not match host name" in text or "server certificate for" in text:
        return (
            "the target's certificate is for another host",
            "Connect by a name in its certificate; otherwise another host may answer in the target's place.",
        )
    if "root certificate file" in text:
        return (
            "there is no root certificate to check the target's certificate",
            "Name the authority's certificate as sslrootcert in the extra of the connection, readable for the tasks.",
        )
    if "certificate verify failed" in text:
        return (
            "the target's certificate is not signed by an authority that the connection trusts",
            "Compare sslrootcert with the target's authority; until they agree, another host may answer in its place.",
        )
    if "server does not support ssl" in text:
        return "the target does not speak TLS", "Set ssl = on in postgresql.conf, with a certificate and its key."
    if "no encryption" in text and "pg_hba" in text:
        return "the target demands TLS", "Set sslmode=require or verify-full in the extra of the connection."
    return None
