"""The target changes between the proof and go-live: refused by the guard, or found before anybody is let in."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from include.cutover.evidence.record import Event, Evidence
from include.cutover.proof import unchanged
from include.cutover.runs import rehearsals
from include.cutover.stack.postgres import Cluster
from tests.exploring import judging_target
from tests.exploring.arena import Arena
from tests.exploring.others import HARMLESS, Others
from tests.exploring.points import Fault
from tests.exploring.site import SCHEMA, Site
from tests.exploring.walking import Run, downstream


@pytest.fixture(scope="module")
def arena(cluster: Cluster) -> Iterator[Arena]:
    with Arena(cluster) as made:
        yield made


@pytest.fixture
def site(arena: Arena, request: pytest.FixtureRequest) -> Iterator[Site]:
    with arena.site(f"let-in-{abs(hash(request.node.name))}") as found:
        yield found


def at_the_gate(site: Site) -> Run:
    run = site.trigger("one")
    site.reach(run, "decide")
    return run


def spoil(site: Site, *statements: str) -> None:
    """Change the target as a superuser who passes the guard."""
    with psycopg.connect(site.conninfo) as connection:
        connection.execute(f"SET search_path = {SCHEMA}".encode())
        for statement in statements:
            connection.execute(statement.encode())


def outcome(site: Site) -> str:
    sealed = site.of("one").sealed
    return "open" if sealed is None else str(sealed["outcome"])


def switched(site: Site) -> Event:
    found = site.of("one").step("switch_configuration")
    assert found is not None, site.trace[-20:]
    return found


def failed(event: Event) -> dict[str, str]:
    return {check["name"]: check["found"] for check in event["checks"] if check["outcome"] != "passed"}


def guards(site: Site) -> int:
    query = "SELECT count(*) FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid WHERE proname = 'refuse_other_writers'"
    return int(site.query(query)[0][0])


def test_a_whole_cutover_goes_live_without_the_guard(site: Site) -> None:
    at_the_gate(site)
    assert guards(site) == 3
    site.world.walk()
    assert outcome(site) == "live", site.trace[-20:]
    assert guards(site) == 0
    figures = switched(site)["figures"]
    assert figures["tables"] == 4 and figures["written_since_the_proof"] == {}
    assert not failed(switched(site)) and not switched(site)["warnings"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE authors SET name = name",
        "COPY authors (name) FROM PROGRAM 'echo new'",
        "SET session_replication_role = replica; DELETE FROM books WHERE id = 7",
    ],
)
def test_nobody_else_writes_while_the_gate_waits(site: Site, statement: str) -> None:
    at_the_gate(site)
    with pytest.raises(psycopg.errors.ObjectInUse) as refused:
        spoil(site, statement)
    assert "is being migrated by the run one: only that run may write to it" in str(refused.value)
    assert refused.value.diag.message_hint and "rollback_library" in refused.value.diag.message_hint
    site.world.walk()
    assert outcome(site) == "live", site.trace[-20:]


def test_what_a_superuser_changes_at_the_gate_is_found_and_the_run_goes_back(site: Site) -> None:
    at_the_gate(site)
    spoil(
        site,
        "ALTER TABLE books DISABLE TRIGGER ALL",
        "UPDATE books SET title = 'rogue' WHERE id = 7",
        "DELETE FROM books WHERE id = 8",
        "ALTER TABLE books ENABLE ALWAYS TRIGGER cutover_guard",
    )
    site.world.walk()
    assert outcome(site) == "rolled_back", site.trace[-20:]
    found = failed(switched(site))
    assert "1 row written since, 1 row fewer" in found["unchanged_books"]
    assert "1 missing" in found["unchanged_books"] and "1 changed" in found["unchanged_books"]
    assert "enforcement of a constraint" in found["unchanged_structure"], "the triggers of its foreign key are disabled"
    assert site.of("one").last("go_live.marker") is None and site.of("one").last("target.fence", raised=False) is None


def test_a_table_made_at_the_gate_that_hides_one_of_the_plan_is_found(site: Site) -> None:
    at_the_gate(site)
    taken = site.of("one").last("lease.target")
    assert taken is not None
    role = taken["application_role"]
    spoil(site, f'CREATE SCHEMA "{role}"', f'CREATE TABLE "{role}".books (LIKE books)')
    try:
        site.world.walk()
    finally:
        spoil(site, f'DROP SCHEMA "{role}" CASCADE')
    assert outcome(site) == "rolled_back", site.trace[-20:]
    assert f"{role}.books comes before the table" in failed(switched(site))["writes_search_path"]


def test_a_sequence_set_back_right_after_the_commit_is_found_and_the_summary_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = unchanged.look_at_rest

    def after_somebody_else(*given: Any) -> Any:
        spoil(site, "SELECT setval('books_id_seq', 1)")
        return look(*given)

    monkeypatch.setattr(unchanged, "look_at_rest", after_somebody_else)
    at_the_gate(site)
    site.world.walk()
    assert outcome(site) == "rolled_back", site.trace[-20:]
    assert failed(switched(site))
    summary = switched(site)["summary"]
    assert "the application was let in, and the target then was not as at the proof" in summary
    assert "is as at the proof" not in summary


def test_rows_written_again_with_the_same_content_are_reported_and_no_fault(site: Site) -> None:
    at_the_gate(site)
    spoil(
        site,
        "SELECT set_config('cutover.run', run_id || ':' || epoch, false) FROM cutover.lease",
        "UPDATE books SET title = title WHERE id < 4",
    )
    site.world.walk()
    assert outcome(site) == "live", site.trace[-20:]
    assert switched(site)["figures"]["written_since_the_proof"] == {"books": 3}
    assert "books was written to since the proof, and its content is the same" in switched(site)["warnings"][0]


def test_an_administrators_daily_work_at_the_gate_ends_live_with_a_warning(site: Site) -> None:
    at_the_gate(site)
    administrator = Others(site, random.Random(1))
    try:
        for statement in HARMLESS:
            administrator.change_with(statement, replica=False)
        assert [line for line in site.trace if line.startswith("on the target") and "refused" in line] == []
        site.world.walk()
    finally:
        spoil(site, f'ALTER ROLE "{site.role}" RESET ALL')
    assert outcome(site) == "live", site.trace[-20:]
    warned = "\n".join(switched(site)["warnings"])
    for part in (
        "rights of pg_monitor on database is new (CONNECT)",
        "rights of pg_monitor on table books is new (SELECT)",
        "rights of pg_monitor on table authors is new (INSERT, UPDATE)",
        "rights of PUBLIC on table books is new (SELECT)",
        "relation books: options was nothing",
        "definition of the index books by_title is new",
        "log_statement is new",
    ):
        assert part in warned
    assert list(judging_target.faults(site)) == []


def test_a_prepared_transaction_at_the_gate_lets_nobody_in_and_is_named(site: Site) -> None:
    run = at_the_gate(site)
    with psycopg.connect(site.conninfo, autocommit=True) as connection:
        connection.execute(
            f"BEGIN; SET LOCAL search_path = {SCHEMA};"
            " SELECT set_config('cutover.run', run_id || ':' || epoch, true) FROM cutover.lease;"
            " UPDATE books SET title = 'rogue' WHERE id = 7; PREPARE TRANSACTION 'at the gate'".encode()
        )
        site.reach(run, "go_live.switch_configuration")
        event = switched(site)
        assert event["outcome"] != "passed" and "prepared transaction 'at the gate' of" in event["summary"], event
        assert "COMMIT PREPARED 'at the gate';" in event["summary"]
        assert site.of("one").last("go_live.marker") is None
        connection.execute("COMMIT PREPARED 'at the gate'")
    site.world.walk()
    assert outcome(site) == "rolled_back", site.trace[-20:]


def test_cleared_after_the_application_has_worked_the_step_passes_again(site: Site) -> None:
    run = at_the_gate(site)
    site.reach(run, "go_live.smoke_test_application")
    first = switched(site)["seq"]
    spoil(site, "SELECT nextval('books_id_seq') FROM generate_series(1, 1500)", "CREATE TABLE made_by_it (a int)")
    (instance,) = run.of("go_live.switch_configuration")
    site.world.clear(run, [instance, *downstream(run, instance)])
    site.world.walk()
    assert outcome(site) == "live", site.trace[-20:]
    assert switched(site)["seq"] > first and "when the application was let in" in switched(site)["summary"]


def test_a_forged_record_of_go_live_does_not_skip_the_look(site: Site) -> None:
    at_the_gate(site)
    marker = '{"snapshot": "1:1:", "at": "", "server": "", "rows": {}}'
    spoil(site, f"INSERT INTO cutover.go_live (run_id, marker) VALUES ('one', '{marker}')")
    site.world.walk()
    assert outcome(site) == "rolled_back", site.trace[-20:]
    assert "the ledger says that the application was let in" in switched(site)["summary"]


def test_a_proof_that_ran_again_is_the_one_to_compare_with(site: Site) -> None:
    run = at_the_gate(site)
    spoil(
        site,
        "SELECT set_config('cutover.run', run_id || ':' || epoch, false) FROM cutover.lease",
        "UPDATE books SET title = title WHERE id < 4",
    )
    (instance,) = run.of("verify.check_tables")
    site.world.clear(run, [instance])
    site.reach(run, "verify.check_tables")
    site.world.walk()
    assert outcome(site) == "live", site.trace[-20:]
    assert switched(site)["figures"]["written_since_the_proof"] == {}


def test_a_baseline_that_was_changed_is_not_believed(site: Site) -> None:
    at_the_gate(site)
    file = site.of("one").folder / "target_baseline.json"
    file.write_text(file.read_text().replace("users", "x") + " ")
    site.world.walk()
    assert outcome(site) == "rolled_back", site.trace[-20:]
    assert "the state of the target at the proof is not known" in switched(site)["summary"]


@pytest.mark.parametrize("at", [30, 60, 90, 110, 120, 130, 140, None])
def test_killed_anywhere_in_the_step_the_next_try_goes_live(site: Site, at: int | None) -> None:
    run = at_the_gate(site)
    site.reach(run, "go_live.approve")
    (instance,) = run.of("go_live.switch_configuration")
    site.world.start(run, instance, Fault(at, signal.SIGKILL))
    site.world.walk()
    assert outcome(site) == "live", site.trace[-20:]
    assert guards(site) == 0


def test_a_rehearsal_looks_at_the_target_too(site: Site) -> None:
    run = site.trigger_rehearsal("try")
    site.world.walk()
    assert run.state == "success", site.trace[-20:]
    found = rehearsals.latest("library")
    assert found is not None and found.result == "green", found
    looked = Evidence.of(rehearsals.series("library"), "try").step("mark_target")
    assert looked is not None and "unchanged_rows" in {check["name"] for check in looked["checks"]}
