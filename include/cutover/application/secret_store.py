"""A store of secrets behind commands of the plan: read, switched to the target, and restored.

Values go to a command through its standard input and come from its standard output: never through an argument, which every
user of the host can see, and never through a file except the kept one. Every value that was set is read back.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from include.cutover import files
from include.cutover.application import dotenv_file
from include.cutover.connections.commands import Ran, Runner
from include.cutover.errors import CannotCheck, StepFailed, Unreachable
from include.cutover.files import write_atomically
from include.cutover.plan.application import CommandConfiguration

log = logging.getLogger(__name__)

_PAUSE = 0.5


class SecretStore:
    """See ``plan.CommandConfiguration``."""

    def __init__(self, settings: CommandConfiguration, runner: Runner) -> None:
        """Run nothing yet."""
        self._settings = settings
        self._runner = runner
        self._where = f"{settings.get[0]} {runner.where}".strip()

    def read(self) -> dict[str, str]:
        """Return all keys with values that are text.

        Raises:
            Unreachable: When ``get`` fails.
            CannotCheck: When it does not print the plan's format, or cannot be run.
        """
        return self._values(self._content())

    def switch(self, values: Mapping[str, str], *, keep_as: Path) -> None:
        """Set ``values`` and read them back; keep the old values.

        Safe to run again: the old values are kept once, before anything changes, and never replaced by later ones; values
        that are set already are not set again.

        Args:
            values: The keys to set.
            keep_as: Where the old values go, mode 0600; a key that was missing has null.

        Raises:
            CannotCheck, Unreachable: As ``read``; nothing was changed.
            WrongData: When a value cannot be written in the plan's format; nothing was changed.
            StepFailed: When ``set`` fails, or the values do not read back in time. Names keys only.
        """
        content = self._content()
        found = self._values(content)
        given = self._given(content, values)
        _keep({key: found.get(key) for key in values}, keep_as)
        if all(found.get(key) == value for key, value in values.items()):
            return
        self._set(given, values)
        self._compare(values)

    def restore(self, kept: Path, values: Mapping[str, str]) -> None:
        """Restore the values that ``switch`` kept, with ``values`` over them, and read them back.

        Without kept values nothing was switched: ``values`` are set, and those that they replace are kept first. Values that
        were set since are not restored, but stay beside the kept ones, with ``.replaced`` behind the name. A key that was
        missing before, and that is not among ``values``, stays. Safe to run again.

        Raises:
            As ``switch``.
        """
        if not kept.exists():
            self.switch(values, keep_as=kept)
            return
        with files.disk_errors(kept):
            before = cast("dict[str, str | None]", json.loads(kept.read_bytes()))
        left = sorted(key for key, value in before.items() if value is None and key not in values)
        if left:
            log.warning("%s: %s was missing before the switch and stays", self._where, ", ".join(left))
        wanted = {**{key: value for key, value in before.items() if value is not None}, **values}
        self.switch(wanted, keep_as=kept.with_name(f"{kept.name}.replaced"))

    def problem(self, live: Mapping[str, str], rolled_back: Mapping[str, str]) -> str:
        """Return why the store could not be switched or restored; empty where no reason is known. Changes nothing.

        Raises:
            CannotCheck, Unreachable: As ``read``.
        """
        content = self._content()
        found = self._values(content)
        new = sorted(key for key in live if key not in found and key not in rolled_back)
        if new:
            return f"{', '.join(new)} missing now and not under rolled_back: a rollback could not remove it"
        for values in (live, rolled_back):
            self._given(content, values)
        if self._settings.may_set is not None:
            ran = self._run(self._settings.may_set, {})
            if ran.code != 0:
                return f"may_set refuses: {ran.ended}, {_harmless(ran, {})}"
        return ""

    def _content(self) -> str:
        ran = self._run(self._settings.get, {})
        if ran.code != 0:
            raise Unreachable(
                "the secret store does not answer",
                where=self._where,
                expected=f"its values from '{self._settings.get[0]}' within {self._settings.seconds} s",
                found=f"{ran.ended}, {_harmless(ran, {})}",
                do="Run the plan's configuration.get by hand as the user of the tasks.",
            )
        return ran.output

    def _values(self, content: str) -> dict[str, str]:
        if self._settings.format == "dotenv":
            return dotenv_file.values_of(content)
        document = self._document(content)
        if self._settings.format == "json":
            return {key: value for key, value in document.items() if isinstance(value, str)}
        values = {}
        for key, encoded in (document.get("data") or {}).items():
            try:
                values[key] = base64.b64decode(encoded, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                continue  # a key of another use, such as a certificate
        return values

    def _document(self, content: str) -> dict[str, Any]:
        secret = self._settings.format == "kubernetes"
        try:
            document = json.loads(content)
        except ValueError:
            document = None
        if not isinstance(document, dict) or (secret and document.get("kind") != "Secret"):
            raise CannotCheck(
                "the secret store cannot be read",
                where=self._where,
                expected="a Secret as JSON" if secret else "one JSON object",
                found="something else",
                do="Compare the plan's configuration.get and format.",
            )
        return document

    def _given(self, content: str, values: Mapping[str, str]) -> str:
        """Return the standard input of ``set``."""
        if self._settings.format == "kubernetes":
            return json.dumps({"stringData": dict(values)})
        if self._settings.format == "json":
            return json.dumps({**(self._document(content) if self._settings.whole else {}), **values})
        if self._settings.whole:
            return dotenv_file.with_values(content, values, self._where)
        return "".join(f"{dotenv_file.line(key, value)}\n" for key, value in values.items())

    def _set(self, given: str, values: Mapping[str, str]) -> None:
        ran = self._run(self._settings.set, values, given)
        if ran.code != 0:
            raise StepFailed(
                "the secret store was not set",
                where=f"{self._where}: {', '.join(sorted(values))}",
                expected=f"exit status 0 of '{self._settings.set[0]}' within {self._settings.seconds} s",
                found=f"{ran.ended}, {_harmless(ran, values)}",
                do="Run the plan's configuration.set by hand as the user of the tasks.",
            )

    def _compare(self, values: Mapping[str, str]) -> None:
        """Read the values until they are as set or the time is over: some stores take a moment."""
        deadline = time.monotonic() + self._settings.seconds
        while True:
            late = time.monotonic() >= deadline
            found = self.read()
            wrong = sorted(key for key, value in values.items() if found.get(key) != value)
            if not wrong:
                return
            if late:
                raise StepFailed(
                    "the secret store does not read back as it was set",
                    where=f"{self._where}: {', '.join(wrong)}",
                    do="Check that set and get of the plan name the same place, and that no other program sets it.",
                )
            time.sleep(_PAUSE)

    def _run(self, command: tuple[str, ...], values: Mapping[str, str], given: str = "") -> Ran:
        return self._runner.run(command, self._settings.seconds, stdin=given, secret=True)


def _harmless(ran: Ran, values: Mapping[str, str]) -> str:
    """Return a command's standard error without the values that it was given, in every form that it may repeat them."""
    errors = ran.errors
    for value in sorted(values.values(), key=len, reverse=True):
        for shown in (value, json.dumps(value)[1:-1], base64.b64encode(value.encode()).decode()):
            if len(shown) > 3:
                errors = errors.replace(shown, "***")
    return Ran(ran.code, "", errors).excerpt(output=False)


def _keep(values: Mapping[str, str | None], keep_as: Path) -> None:
    if not keep_as.exists():
        files.make_private(keep_as.parent)
        with files.disk_errors(keep_as):
            write_atomically(keep_as, json.dumps(values, indent=1).encode() + b"\n", 0o600)
