"""Errors that an on-call engineer can act on.

Every error names the place, the expected and the found state, and the next step. ``retry_helps`` says whether the same call
may succeed later without any change; the task layer turns that into Airflow's retry decision.
"""

from __future__ import annotations


class CutoverError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: One sentence that says what is wrong. Never holds a secret or the content of a secret column.
        where: Plan, table, column, key, file or step.
        expected: The expected state.
        found: The found state.
        do: The reader's next step.
    """

    retry_helps = False

    def __init__(self, message: str, *, where: str = "", expected: str = "", found: str = "", do: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.expected = expected
        self.found = found
        self.do = do

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.message}" if self.where else self.message]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.found:
            parts.append(f"found {self.found}")
        text = "; ".join(part.rstrip(".") for part in parts) + "."
        return f"{text} {self.do}" if self.do else text


class PlanInvalid(CutoverError):
    """A plan file that cannot be used. ``faults`` lists every fault of the file, each with its path."""

    def __init__(
        self, message: str, faults: list[str], *, where: str = "", expected: str = "", found: str = "", do: str = ""
    ) -> None:
        super().__init__(message, where=where, expected=expected, found=found, do=do)
        self.faults = faults

    def __str__(self) -> str:
        return "\n  ".join([super().__str__(), *self.faults])


class CannotCheck(CutoverError):
    """Something could not be checked. Never a pass: both this and a failed check stop a go-live."""


class Unreachable(CannotCheck):
    """A server or service did not answer. A retry may help."""

    retry_helps = True


class WrongData(CutoverError):
    """Data that cannot be migrated as it is; names table, column and key."""


class Refused(CutoverError):
    """The state of the run, the source or the target does not allow this step. Nothing was changed."""


class LeaseLost(Refused):
    """Another run took over. The step that raised this changed nothing, and its run may do nothing more."""


class StepFailed(CutoverError):
    """A step ran and its outcome is wrong."""
