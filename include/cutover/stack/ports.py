"""TCP ports on 127.0.0.1: a free one, and the process that holds one."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path

from include.cutover.errors import Refused

_RANGE = range(20000, 32768)
_LISTENS = "0A"  # the state of a listening socket in /proc/net/tcp, see proc_net_tcp(5)


def free_port(preferred: int | None = None) -> int:
    """Return a TCP port on 127.0.0.1 that was free a moment ago.

    It is below those that Linux gives to outgoing connections, so that none of these takes it before it is used.

    Args:
        preferred: Returned when it is free.
    """
    if preferred is not None and _hindrance(preferred) is None:
        return preferred
    for port in random.sample(_RANGE, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(port: int, do: str) -> None:
    """Refuse a port that cannot be listened on, and name the process that holds it.

    Args:
        port: The port.
        do: The remedy, for a person.

    Raises:
        Refused: When it is taken, or is not a port that this user may use.
    """
    hindrance = _hindrance(port)
    if hindrance is not None:
        holders = ", ".join(_holders(port))
        found = f"{hindrance}; it is held by {holders}" if holders else hindrance
        raise Refused(f"the port {port} cannot be used", found=found, do=do)


def _hindrance(port: int) -> str | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except (OSError, OverflowError) as error:
            return str(error)
    return None


def _holders(port: int) -> list[str]:
    """Return the processes that listen on the port, as far as this user can see them."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                cells = line.split()
                if cells[3] == _LISTENS and int(cells[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{cells[9]}]")
    found = []
    for entry in Path("/proc").iterdir() if sockets else ():
        if entry.name.isdigit():
            with suppress(OSError):
                if any(str(item.readlink()) in sockets for item in (entry / "fd").iterdir()):
                    found.append(f"process {entry.name} ({(entry / 'comm').read_text().strip()})")
    return found
