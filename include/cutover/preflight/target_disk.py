"""Check of the target's disk. It can be seen only where the server runs on this host."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path

from psycopg import errors

from include.cutover.preflight.answers import Answer, ExaminedTarget
from include.cutover.preflight.sizes import pretty

_PROCESSES = Path("/proc")
_TABLESPACE = re.compile(r'\btablespace\s+(?:"((?:[^"]|"")+)"|(\w+))', re.IGNORECASE)


def free_disk(target: ExaminedTarget) -> Answer:
    """Check the free space where the data will grow, against the size of the source."""
    needed = int(target.source_bytes * target.plan.preflight.target_disk_factor)
    expected = f"{pretty(needed)} free ({target.plan.preflight.target_disk_factor:g} times the source)"
    do = (
        "Check it there; then the lead accepts it at the go/no-go, or the plan states it as target_free_disk under"
        " preflight.accept_unknown."
    )
    if not _on_this_host(target):
        unseen = "the server is on another host, or in a container: its disk cannot be seen from here"
        return Answer("unknown", expected, unseen, do)
    try:
        places, closed = _data_places(target)
    except errors.InsufficientPrivilege:
        unseen = "the role may not see where the server keeps its data"
        return Answer("unknown", expected, unseen, f"{do} Or GRANT pg_read_all_settings to the role.")
    smallest: tuple[int, Path] | None = None
    for place in places:
        try:
            disk = os.statvfs(place)
        except OSError as error:
            return Answer("unknown", expected, f"{place}: {error.strerror}", do)
        free = disk.f_bavail * disk.f_frsize
        if smallest is None or free < smallest[0]:
            smallest = free, place
    if smallest is None:
        return Answer("unknown", expected, "the server names no folder", do)
    found = f"{pretty(smallest[0])} free at {smallest[1]}"
    if smallest[0] >= needed and closed is not None:
        return Answer("unknown", expected, f"{found}; {closed} is closed to this user, and may lead to another disk", do)
    return Answer.when(smallest[0] >= needed, expected, found, "Free disk space there, or use a larger one.")


def _on_this_host(target: ExaminedTarget) -> bool:
    """Return True when our own session's server process runs here. A loopback address alone could be a tunnel."""
    server, port, pid = target.row("SELECT inet_server_addr()::text, inet_client_port(), pg_backend_pid()")
    if server is not None and not ipaddress.ip_interface(server).ip.is_loopback:
        return False
    try:
        title = (_PROCESSES / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return title.startswith("postgres") and ("[local]" if port is None or port < 0 else f"({port})") in title


def _data_places(target: ExaminedTarget) -> tuple[list[Path], Path | None]:
    """Return the folders that will grow: the data, its write-ahead log, and the tablespaces of tables and sorts.

    Beside them the folder of the write-ahead log where this user cannot see it; None where it is among the others.
    """
    data, tablespaces = target.row(
        "SELECT current_setting('data_directory'), array("
        "  SELECT pg_tablespace_location(t.oid) FROM pg_tablespace t, pg_database d"
        "  WHERE d.datname = current_database() AND pg_tablespace_location(t.oid) <> '' AND ("
        "    t.oid = d.dattablespace OR t.spcname = current_setting('default_tablespace') OR t.spcname = ANY (%s)"
        "    OR quote_ident(t.spcname) = ANY (regexp_split_to_array(current_setting('temp_tablespaces'), ',\\s*'))))",
        sorted(_named_tablespaces(target.plan.sql_folder)),
    )
    places = [Path(data), *map(Path, tablespaces)]
    journal = Path(data, "pg_wal")  # often a link to a disk of its own, and often closed to other users
    if not os.access(journal, os.F_OK):
        return places, journal
    return [*places, journal], None


def _named_tablespaces(sql_folder: Path) -> set[str]:
    """Return the names that follow the word TABLESPACE in the plan's SQL; a name too many is of no tablespace."""
    found: set[str] = set()
    for file in sql_folder.rglob("*.sql"):
        for quoted, plain in _TABLESPACE.findall(file.read_text(encoding="utf-8", errors="replace")):
            found.add(quoted.replace('""', '"') or plain.lower())
    return found
