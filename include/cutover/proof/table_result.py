"""The result of comparing one table, for the report and as a check."""

from __future__ import annotations

from dataclasses import dataclass

from include.cutover.checks import Check, Outcome
from include.cutover.proof import words
from include.cutover.proof.differences import Kind, RowDifference
from include.cutover.proof.words import SNAPSHOT, rows_text

DIFFERENT = "Do not go live. Find out who or what changed these rows; then start again with an empty target."


@dataclass(frozen=True)
class TableResult:
    """The comparison of one table.

    Attributes:
        source_rows: Rows that the table must hold: the snapshot's, or those of the reference data; None where unknown.
        target_rows: Rows that it holds; None where unknown.
        parts: Into how many parts it was cut.
        different: How many of them are not the same.
        missing: Rows that the target lacks.
        extra: Rows that only the target has.
        changed: Rows whose columns differ.
        counted: Those three are complete; else they are of the first parts that differ.
        differences: The first differences of each kind.
        faults: Faults of the table itself, such as a column that one side lacks.
        problem: Why it could not be compared; empty otherwise.
        origin: ``snapshot`` or ``reference data``.
        left_out: Columns that the target computes by itself and that were not compared.
    """

    table: str
    source_rows: int | None
    target_rows: int | None
    parts: int = 0
    different: int = 0
    missing: int = 0
    extra: int = 0
    changed: int = 0
    counted: bool = True
    differences: tuple[RowDifference, ...] = ()
    faults: tuple[str, ...] = ()
    problem: str = ""
    origin: str = SNAPSHOT
    left_out: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """``passed`` only when every row was compared and is the same."""
        if self.faults or self.different or self.missing or self.extra or self.changed:
            return "failed"
        return "unknown" if self.problem or self.source_rows is None or self.source_rows != self.target_rows else "passed"

    @property
    def summary(self) -> str:
        """One sentence about the table."""
        if self.outcome == "passed":
            notes = [self.origin] if self.origin != SNAPSHOT else []
            notes += [f"computed by the target and not compared: {', '.join(self.left_out)}"] if self.left_out else []
            return f"{rows_text(self.source_rows or 0)} equal" + (f" ({'; '.join(notes)})" if notes else "")
        shown = "; ".join(str(difference) for difference in self.differences[:3])
        return self.headline + (f": {shown}" if shown else "")

    @property
    def headline(self) -> str:
        """The faults of the table, without the rows."""
        faults = [*self.faults]
        kinds = [f"{count:,} {kind}" for kind, count in self._kinds().items() if count]
        if kinds:
            faults.append(("" if self.counted else "at least ") + ", ".join(kinds))
        if self.different and not kinds:
            faults.append(f"{self.different} of {self.parts} parts differ")
        if self.problem:
            faults.append(self.problem)
        return "; ".join(faults)

    def _kinds(self) -> dict[Kind, int]:
        return {"missing": self.missing, "extra": self.extra, "changed": self.changed}

    def check(self, schema: str) -> Check:
        """Return the result as a check."""
        return Check(
            name=f"content_{words.identifier(self.table)}",
            title=f"every row of {self.table} is the same on both sides",
            outcome=self.outcome,
            expected="" if self.source_rows is None else f"{rows_text(self.source_rows)} ({self.origin})",
            found=self.summary,
            do={"passed": "", "failed": DIFFERENT, "unknown": words.UNCOUNTED}[self.outcome],
            where=f"{schema}.{self.table}",
        )
