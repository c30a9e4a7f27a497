"""The application's configuration of its database, in a dotenv file or a store of secrets: switched, and restored."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from include.cutover.application import dotenv_file
from include.cutover.application.secret_store import SecretStore
from include.cutover.checks import Check, Outcome
from include.cutover.connections.commands import Local, Remote, Runner
from include.cutover.errors import CannotCheck, WrongData
from include.cutover.plan.application import CommandConfiguration, DotenvConfiguration

Settings = DotenvConfiguration | CommandConfiguration

_SECRET_KEY = re.compile(r"(?i)password|passwd|pwd|secret|token|key")
_SECRET_LENGTH = 6  # shorter ones are no secrets, and replacing them would spoil whole texts
_PASSWORD = re.compile(r"://[^/\s:@]*:([^\s@]+)@")


def name(settings: Settings) -> str:
    """Return its name for a person."""
    if isinstance(settings, DotenvConfiguration):
        return settings.file.name
    return f"the secret store behind {settings.set[0]}"


def secrets(settings: Settings, kept: Path) -> set[str]:
    """Return the values that must not be shown, of now and before: passwords in URLs, and those under a key of a secret.

    Never raises.
    """
    values: list[tuple[str, str]] = []
    if isinstance(settings, DotenvConfiguration):
        for file in (settings.file, kept):
            with suppress(CannotCheck):
                values += dotenv_file.read(file).items()
    else:
        with suppress(OSError, ValueError, AttributeError):
            values += [(key, str(value)) for key, value in json.loads(kept.read_bytes()).items()]
    found = set()
    for key, value in values:
        if _SECRET_KEY.search(key):
            found.add(value)
        match = _PASSWORD.search(value)
        if match:
            found |= {match[1], unquote(match[1])}
    return {value for value in found if len(value) >= _SECRET_LENGTH}


def read(settings: Settings, *, remote: Remote) -> dict[str, str]:
    """Return all keys and values that it holds now, secrets included.

    Raises:
        CannotCheck: When it cannot be read.
    """
    if isinstance(settings, DotenvConfiguration):
        return dotenv_file.read(settings.file)
    return _store(settings, remote).read()


def kept_as(settings: Settings, run: str, private: Path) -> Path:
    """Return where the configuration from before the switch is kept.

    Args:
        settings: The plan's.
        run: The run's file name.
        private: Folder of the backups. Values from a store go there, a dotenv file's stay beside it.
    """
    if isinstance(settings, DotenvConfiguration):
        return settings.file.with_name(f"{settings.file.name}.before-{run}")
    return private / f"configuration.before-{run}.json"


def switch(settings: Settings, values: Mapping[str, str], *, keep_as: Path, remote: Remote) -> None:
    """Set ``values``, and keep the configuration from before. Safe to run again.

    Args:
        settings: The plan's.
        values: The keys to set.
        keep_as: See ``kept_as``.
        remote: The host of an SSH connection, for a store behind one.

    Raises:
        CutoverError: See ``dotenv_file.switch`` and ``SecretStore.switch``.
    """
    if isinstance(settings, DotenvConfiguration):
        dotenv_file.switch(settings.file, values, keep_as=keep_as)
    else:
        _store(settings, remote).switch(values, keep_as=keep_as)


def restore(
    settings: Settings, kept: Path, values: Mapping[str, str], *, switched: Collection[str], remote: Remote
) -> list[str]:
    """Restore what ``switch`` kept, with ``values`` over it. Safe to run again.

    Args:
        settings: The plan's.
        kept: See ``kept_as``.
        values: The keys to set over it.
        switched: The keys that ``switch`` set.
        remote: As for ``switch``.

    Returns:
        The keys that were added or changed after the switch and stay. Of a store only the switched keys change.

    Raises:
        CutoverError: See ``dotenv_file.restore`` and ``SecretStore.restore``.
    """
    if isinstance(settings, DotenvConfiguration):
        return dotenv_file.restore(settings.file, kept, values, switched)
    _store(settings, remote).restore(kept, values)
    return []


def check(settings: Settings, live: Mapping[str, str], rolled_back: Mapping[str, str], *, remote: Remote) -> Check:
    """Check that the values of go-live and of a rollback can be set: ``configuration_values``. Changes nothing.

    Args:
        settings: The plan's.
        live: Values that go-live sets.
        rolled_back: Values that a rollback sets.
        remote: As for ``switch``.
    """
    found, do, where = "", "", str(settings.file) if isinstance(settings, DotenvConfiguration) else name(settings)
    expected = "values that dotenv and shell read in the same way"
    try:
        if isinstance(settings, DotenvConfiguration):
            for values in (live, rolled_back):
                for key, value in values.items():
                    dotenv_file.line(key, value)
        else:
            expected = "a store that answers, and values that can be set and restored"
            found = _store(settings, remote).problem(live, rolled_back)
            do = "Correct the plan's configuration." if found else ""
    except WrongData as error:
        found, do = error.message, error.do
    except CannotCheck as error:
        found, do, where = ": ".join(part for part in (error.message, error.found) if part), error.do, error.where
    outcome: Outcome = "failed" if found else "passed"
    return Check(
        "configuration_values",
        f"The values for {name(settings)} can be written",
        outcome,
        expected,
        found or "yes",
        do,
        where,
    )


def _store(settings: CommandConfiguration, remote: Remote) -> SecretStore:
    runner: Runner = Local() if settings.ssh is None else remote(settings.ssh)
    return SecretStore(settings, runner)
