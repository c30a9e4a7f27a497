"""Passwords from the places that the plan names: an environment variable, a file, a connection; never the plan itself."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from include.cutover import rights
from include.cutover.errors import CannotCheck
from include.cutover.plan.access import Secret

_LONGEST = 4096  # bytes; a longer file is not a mounted secret


def read(secret: Secret, of_connection: Callable[[str], str | None], whose: str) -> str:
    """Return the password. The caller keeps it out of logs; no error contains it.

    Args:
        secret: Names the place.
        of_connection: Returns the password of an Airflow connection by its id.
        whose: For the error, e.g. ``secrets.application``.

    Raises:
        CannotCheck: When there is none, or every user of the host may read or write the file.
    """
    if secret.env is not None:
        found, where = os.environ.get(secret.env), f"the environment variable {secret.env}"
        do = "Set it where the tasks run, from the secret store."
    elif secret.file is not None:
        found, where = _of_file(secret, whose), str(secret.file)
        do = "Write the password into it."
    else:
        found, where = of_connection(str(secret.connection)), f"connection {secret.connection}"
        do = "Define it, with the password, in Airflow or its secrets backend."
    if not found:
        raise CannotCheck("the secret is not there", where=f"{whose}: {where}", expected="a password", do=do)
    return found


def _of_file(secret: Secret, whose: str) -> str:
    path = secret.file
    assert path is not None
    where = f"{whose}: {path}"
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CannotCheck("the secret is not a regular file", where=where, do="Name a regular file in the plan.")
            if status.st_mode & (stat.S_IROTH | stat.S_IWOTH):
                raise CannotCheck(
                    "every user of this host may read or write the file of the secret",
                    where=where,
                    expected="mode 0600, or 0640 with a group of its own",
                    found=f"mode {stat.S_IMODE(status.st_mode):04o}",
                    do=f"chmod o= {path}; then change the password, as it may have been read.",
                )
            content = file.read(_LONGEST + 1)
    except OSError as error:
        found = rights.reason(error, path)
        raise CannotCheck("the secret cannot be read", where=where, found=found, do="Let the tasks' user read it.") from None
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\0"
    text = text.removesuffix("\n").removesuffix("\r")
    if len(content) > _LONGEST or "\n" in text or "\0" in text:
        raise CannotCheck(
            "the file of the secret holds more than a password",
            where=where,
            expected="one line of text",
            do="Keep only the password in it.",
        )
    return text
