"""The whole chain, from the assessment to the proof: everything is equal, or the assessment said why not.

There is no third outcome, whatever the source holds: never a copy that fails although nothing blocked, and never a value
that is another one in the target. An oracle decides about equality. ``make test-chain EXAMPLES=5000`` tries
many more cases than ``make test``.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, note, settings

from include.cutover.assessment.decided import assess_decided
from include.cutover.assessment.findings import CODES, Assessment
from include.cutover.assessment.target import read_target
from include.cutover.checks import Check
from include.cutover.copying.table_copy import RunLease
from include.cutover.copying.tables import copy_table
from include.cutover.decisions import quarantine
from include.cutover.decisions.apply import apply_decisions
from include.cutover.decisions.audit import audit
from include.cutover.errors import CutoverError
from include.cutover.plan.model import Plan
from include.cutover.proof import content, counts, orphans, parts
from include.cutover.proof.writes import WriteTarget, write_checks
from include.cutover.source import schema as source_schema
from include.cutover.source import snapshots
from include.cutover.stack.postgres import Cluster
from include.cutover.target import constraints, ledger, sequences, sql_runner, structure, write_conditions
from include.cutover.target import schema as target_schema
from include.cutover.target.sides import Sides
from tests.chain import oracle
from tests.chain.case import Case
from tests.chain.drawing import cases
from tests.support.assessing import plan_of

EXAMPLES = int(os.environ.get("CHAIN_EXAMPLES") or 80)
SCHEMA = "chain"
RUN = "run"

# What the assessment says it did not look at: the load may refuse these.
NOT_LOOKED_AT = {"check_not_assessed", "key_not_assessed", "orphans_not_assessed", "long_in_index"}
WITHOUT_TABLE = {"decision_misfit"}  # they name their place in the plan


@dataclass
class Ended:
    """How the chain ended.

    Attributes:
        error: The error that stopped it.
        checks: All checks of the proof, when it came so far.
        equal: True when the oracle finds in the target what must be there; None when it never came so far.
    """

    error: CutoverError | None = None
    checks: list[Check] = field(default_factory=list)
    equal: bool | None = None
    difference: str = ""

    @property
    def red(self) -> list[Check]:
        return [check for check in self.checks if check.outcome != "passed"]

    @property
    def passed(self) -> bool:
        return self.error is None and not self.red

    @property
    def told(self) -> str:
        """Return the text that a person reads."""
        return "\n".join([str(self.error or "no error"), *(f"{one.where}: {one.title}: {one.found}" for one in self.red)])

    def __str__(self) -> str:
        return f"{self.told}\noracle: {self.equal} {self.difference}"


@dataclass
class Bench:
    """One database for all cases."""

    conninfo: str
    epoch: int
    folder: Path

    @contextmanager
    def place(self) -> Iterator[Path]:
        """A folder of its own, gone afterwards; the target is empty before and after."""
        folder = self.folder / uuid.uuid4().hex[:12]
        folder.mkdir()
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            try:
                yield folder
            finally:
                connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
                connection.execute("DELETE FROM cutover.copied")
                connection.execute("DELETE FROM cutover.chunk")
                shutil.rmtree(folder)

    def carry_out(self, case: Case, file: Path, plan: Plan, folder: Path) -> Ended:
        """Everything that the cutover does from the backup to the decision, then the oracle."""
        ended = Ended()
        try:
            self._cut_over(case, file, plan, folder, ended.checks)
        except CutoverError as error:
            ended.error = error
            return ended
        with psycopg.connect(self.conninfo, autocommit=True, options="-c TimeZone=UTC") as connection:
            try:
                wanted = oracle.expected(case, file, connection)
            except oracle.NoSuchValue as wrong:
                ended.equal, ended.difference = False, str(wrong)
                return ended
            found = oracle.held(case, connection, SCHEMA)
        ended.equal = wanted == found
        for name in wanted:
            lost, strange = wanted[name] - found[name], found[name] - wanted[name]
            ended.difference += f"{name}: lost {dict(lost)}, strange {dict(strange)}; " if lost or strange else ""
        return ended

    def _cut_over(self, case: Case, file: Path, plan: Plan, folder: Path, checks: list[Check]) -> None:
        planned = target_schema.planned_schema(self.conninfo, folder / "sql")
        decided = apply_decisions(file, folder / "backup" / "decided.db", plan, planned, listing=folder / "evidence")
        with snapshots.snapshot(file) as reading:
            given, rows = (
                source_schema.sqlite_sequence(reading),
                source_schema.counts(reading, source_schema.tables(reading)),
            )
        sql_runner.apply(self.conninfo, folder / "sql", "pre_data", schema=SCHEMA, run_id=RUN)
        sides = Sides(decided.file, self.conninfo, SCHEMA)
        for table in plan.tables:
            copy_table(sides, RunLease(RUN, self.epoch), table, chunk_rows=case.chunk_rows)
        for kind in ("post_data", "foreign_keys"):
            if (folder / "sql" / kind).is_dir():
                sql_runner.apply(self.conninfo, folder / "sql", kind, schema=SCHEMA, run_id=RUN)
        sequences.set_sequences(self.conninfo, SCHEMA, given)
        constraints.validate_foreign_keys(self.conninfo, SCHEMA, secret={})
        counted = counts.count_checks(self.conninfo, SCHEMA, decided.expected_rows(rows))
        checks += [one.check(SCHEMA) for one in counted]
        checks += [one.check(SCHEMA) for one in content.compare(sides, plan.tables, workers=1)]
        checks += [one.check(SCHEMA) for one in orphans.orphan_checks(self.conninfo, SCHEMA, {})]
        checks += sequences.check_sequences(self.conninfo, SCHEMA, given)
        checks += structure.checks(self.conninfo, SCHEMA, folder / "sql", list(plan.tables))
        checks += write_conditions.checks(self.conninfo, SCHEMA, list(plan.tables), None)
        checks += write_checks(WriteTarget(self.conninfo, SCHEMA, folder / "sql", None), list(plan.tables))
        if decided.made:
            checks += audit(decided, plan, planned)
            quarantine.store(self.conninfo, RUN, quarantine.rows(decided, plan))


@pytest.fixture(scope="module")
def bench(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    conninfo = cluster.conninfo(name)
    ledger.ensure(conninfo)
    yield Bench(conninfo, ledger.open_run(conninfo, RUN, "shop"), tmp_path_factory.mktemp("chain"))
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def check_blocks(found: Assessment, case: Case) -> None:
    """Every finding that blocks says where."""
    for item in found.blocks:
        assert item.code in CODES and (item.becomes or item.value or item.do), item
        assert bool(item.keys) == bool(item.rows), item
        if item.code not in WITHOUT_TABLE:
            table = case.table(item.table)
            assert not item.column or any(column.name in item.column for column in table.columns), item


def judge(case: Case, found: Assessment, ended: Ended) -> None:
    """No third outcome."""
    if ended.equal is not None:  # the proof compared everything: it may never take for equal what is not
        proof = [check for check in ended.checks if check.name.startswith(("content_", "decided_"))]
        assert ended.equal or any(check.outcome != "passed" for check in proof), "the proof takes for equal what is not"
    if ended.passed:
        assert ended.equal
        return
    said = [item for item in found.findings if item.severity == "blocks" or item.code in NOT_LOOKED_AT]
    if any(item.code in WITHOUT_TABLE for item in said):
        return
    if found.blocks and any(case.settings.values()):  # where something blocks, decisions are not tried as a whole
        assert any(table.name in ended.told for table in case.tables), "it failed without saying where"
        return
    assert any(item.table in ended.told for item in said), "it failed for something that the assessment did not say"
    where = ended.error.where if ended.error is not None else ""
    for table in case.tables:
        for column in table.columns:
            if f"table {table.name}, column {column.name}, key " in where:
                named = [item for item in said if item.table == table.name and column.name in item.column]
                assert named, "it failed for a column that the assessment did not name"


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
@given(case=cases())
def test_everything_is_equal_or_the_assessment_said_why_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    note(str(case))
    monkeypatch.setattr(parts, "ROWS", case.part_rows)
    with bench.place() as folder:
        file = folder / "source.db"
        case.write(file)
        plan = plan_of(case.settings)
        found = assess_decided(file, plan, read_target(bench.conninfo, case.sql(folder / "sql")))
        note("".join(f"{item}\n" for item in found.findings))
        check_blocks(found, case)
        if not found.blocks or case.all_the_same:
            ended = bench.carry_out(case, file, plan, folder)
            note(str(ended))
            judge(case, found, ended)
