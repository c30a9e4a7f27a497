"""``verify`` tells what differs, and its exit status never says equal of what was not compared."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

from include.cutover.cli.verify import VerifyOptions, run
from include.cutover.proof import content, digest_store, digests
from include.cutover.proof.digest_store import DigestStore
from include.cutover.source import backup, fence, trial_restore
from include.cutover.stack.postgres import Cluster, free_port
from include.cutover.target.sides import Sides
from tests.support.loaded import SCHEMA, Loaded, load, ward_ops


@pytest.fixture(scope="module")
def ward(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    with ward_ops(cluster, tmp_path_factory.mktemp("ward"), pings=500) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def without_places(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    changes = ("DELETE FROM georgian_cities", "DELETE FROM georgian_regions", "DELETE FROM sqlite_sequence")
    with ward_ops(cluster, tmp_path_factory.mktemp("places"), *changes, pings=10) as loaded:
        yield loaded


@dataclass(frozen=True)
class Told:
    """The result of the command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def verify(loaded: Loaded, conninfo: str | None = None, source: Path | None = None, **options: Any) -> Told:
    out, err = io.StringIO(), io.StringIO()
    file = source or loaded.manifest.file
    given = VerifyOptions(loaded.plan.name, file, conninfo or loaded.conninfo, **options)
    status = run(given, out=out, err=err)
    return Told(status, out.getvalue(), err.getvalue())


def test_equal_sides_give_0(ward: Loaded) -> None:
    told = verify(ward, fail_on_mismatch=True)
    assert (told.status, told.err) == (0, "")
    assert "EQUAL: source and target are the same, 25 tables." in told.out
    assert "ok       ping_results: 500 rows equal" in told.out
    found = verify(ward, as_json=True).json
    assert (found["outcome"], found["complete"]) == ("equal", True)
    names = {check["name"] for check in found["checks"]}
    assert {"sequence_users_id", "orphans_snmp_credentials_snmp_credentials_device_id_fkey", "structure_index",
            "constraints_validated", "indexes_valid", "source_tables_known"} <= names  # fmt: skip
    assert {check["outcome"] for check in found["checks"]} == {"passed"}


@pytest.mark.parametrize("form", ["postgresql://", "postgresql+psycopg://", "postgres://"])
def test_every_form_of_the_target_s_url_is_accepted(ward: Loaded, form: str) -> None:
    url = ward.cluster.url(ward.database).replace("postgresql://", form)
    assert verify(ward, url, tables="users").status == 0


def test_a_difference_is_reported_and_gives_1_only_with_fail_on_mismatch(ward: Loaded) -> None:
    with ward.spoiled("UPDATE branches SET display_name = 'x' WHERE name = 'Batumi 1'",
                      "DELETE FROM ping_results WHERE id = 3") as conninfo:  # fmt: skip
        told = verify(ward, conninfo)
        assert told.status == 0
        assert "MISMATCH: source and target are not the same." in told.out
        assert "ping_results, id=3: missing in the target" in told.out
        assert "display_name: differs from character 1 on ('ბათუმი №1' became 'x')" in told.out
        assert verify(ward, conninfo, fail_on_mismatch=True).status == 1
        found = verify(ward, conninfo, as_json=True).json
        assert found["outcome"] == "different"
        tables = {table["table"]: table for table in found["content"]}
        assert tables["ping_results"]["missing"] == 1
        assert tables["ping_results"]["differences"][0]["key"] == "id=3"


def test_counts_only_is_the_table_of_the_runbook(ward: Loaded) -> None:
    with ward.spoiled("DELETE FROM ping_results WHERE id < 100") as conninfo:
        told = verify(ward, conninfo, counts_only=True)
        lines = {line.split()[0]: line.split()[1:] for line in told.out.splitlines() if line.strip()}
        assert lines["ping_results"] == ["500", "401", "-99"]
        assert lines["branches"] == ["128", "128", "0"]
        assert lines["total"][2] == "-99"
        assert told.status == 0
        assert verify(ward, conninfo, counts_only=True, fail_on_mismatch=True).status == 1
    with ward.spoiled("UPDATE branches SET display_name = 'x'") as conninfo:
        assert verify(ward, conninfo, counts_only=True, fail_on_mismatch=True).status == 0


def test_only_the_given_tables_are_compared(ward: Loaded) -> None:
    with ward.spoiled("UPDATE branches SET display_name = 'x'", "SELECT setval('users_id_seq', 1)") as conninfo:
        assert verify(ward, conninfo, tables="monitored_hostgroups,alert_rules", fail_on_mismatch=True).status == 0
        told = verify(ward, conninfo, tables="users", fail_on_mismatch=True)
        assert told.status == 1
        assert "DIFFERS  the next id of users is free: the next value is 2" in told.out


def test_orphans_sequences_and_schema_alone_are_a_mismatch(ward: Loaded) -> None:
    orphan = ("ALTER TABLE monitoring_items DROP CONSTRAINT monitoring_items_device_id_fkey",
              "INSERT INTO monitoring_items (device_id, oid_name, oid) VALUES (gen_random_uuid(), 'n', '1.3')",
              "ALTER TABLE monitoring_items ADD CONSTRAINT monitoring_items_device_id_fkey FOREIGN KEY (device_id)"
              " REFERENCES standalone_devices (id) ON DELETE CASCADE NOT VALID")  # fmt: skip
    for statements, found in [
        (orphan, "every monitoring_items.device_id refers to an existing row of standalone_devices: 1 orphan"),
        (["SELECT setval('ping_results_id_seq', 5)"], "the next id of ping_results is free: the next value is 6"),
        (["DROP INDEX ping_results_timestamp_idx"], "ping_results.ping_results_timestamp_idx is missing"),
    ]:
        with ward.spoiled(*statements) as conninfo:
            told = verify(ward, conninfo, fail_on_mismatch=True)
            assert told.status == 1
            assert found in told.out


def test_reference_data_is_not_a_difference(without_places: Loaded) -> None:
    assert verify(without_places, fail_on_mismatch=True).status == 0
    told = verify(without_places, fail_on_mismatch=True, counts_only=True)
    assert told.status == 0
    line = next(line for line in told.out.splitlines() if line.startswith("georgian_cities"))
    assert line.split() == ["georgian_cities", "82", "82", "0", "(reference", "data)"]
    with without_places.spoiled("DELETE FROM georgian_cities WHERE id = 5") as conninfo:
        assert verify(without_places, conninfo, fail_on_mismatch=True, counts_only=True).status == 1


def test_after_go_live_new_rows_are_extra_and_the_sequences_are_left_alone(ward: Loaded) -> None:
    new = "INSERT INTO ping_results (device_ip) SELECT '10.0.0.1' FROM generate_series(1, 1000)"
    with ward.spoiled(new) as conninfo:
        told = verify(ward, conninfo, as_json=True)
        assert told.status == 0
        pings = next(table for table in told.json["content"] if table["table"] == "ping_results")
        assert (pings["extra"], pings["missing"], pings["changed"]) == (1000, 0, 0)
        assert verify(ward, conninfo, fail_on_mismatch=True).status == 1
        with psycopg.connect(conninfo) as connection:
            row = connection.execute("INSERT INTO ping_results (device_ip) VALUES ('x') RETURNING id").fetchone()
            assert row == (1501,)


def test_writers_are_not_blocked(ward: Loaded) -> None:
    with ward.spoiled() as conninfo, psycopg.connect(conninfo) as connection:
        connection.execute("SELECT nextval('ping_results_id_seq')")
        connection.execute("UPDATE users SET full_name = 'being written' WHERE id = 1")
        assert verify(ward, conninfo, fail_on_mismatch=True).status == 0


# --- the source -----------------------------------------------------------------------------------------------------------


def test_the_digests_of_a_backup_are_kept_beside_it(ward: Loaded) -> None:
    kept = digest_store.beside(ward.manifest.file)
    kept.unlink(missing_ok=True)
    assert verify(ward).status == 0
    assert json.loads(kept.read_bytes())["snapshot"] == [ward.manifest.sha256]
    before = kept.stat().st_mtime_ns
    assert verify(ward).status == 0
    assert kept.stat().st_mtime_ns == before


def test_the_restore_test_computes_the_digests_that_the_proof_uses(ward: Loaded, tmp_path: Path) -> None:
    manifest, tables, kept = ward.manifest, list(ward.plan.tables), digest_store.beside(ward.manifest.file)
    kept.unlink(missing_ok=True)

    def of(file: Path) -> dict[str, str]:
        store = None if file.parent == tmp_path / "scratch" else DigestStore(kept, manifest.sha256)
        return content.source_digests(Sides(file, ward.conninfo, SCHEMA), tables, store=store)

    checks = trial_restore.restore_test(manifest, tmp_path / "scratch", digests=of)
    assert {check.outcome for check in checks} == {"passed"}
    computed = kept.stat().st_mtime_ns
    assert verify(ward, fail_on_mismatch=True).status == 0
    assert kept.stat().st_mtime_ns == computed


def test_a_live_file_is_cloned_and_not_touched(ward: Loaded, tmp_path: Path) -> None:
    live = tmp_path / "live.db"
    shutil.copy(ward.manifest.file, live)
    with contextlib.closing(apsw.Connection(str(live))) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("UPDATE users SET full_name = 'in the log' WHERE id = 1")
        found = verify(ward, source=live, as_json=True)
        assert found.status == 0
        changed = next(table for table in found.json["content"] if table["table"] == "users")["differences"][0]
        assert changed["columns"][0]["source"] == "'in the log'"
        assert sorted(path.name for path in tmp_path.glob("live.db*")) == ["live.db", "live.db-shm", "live.db-wal"]


def test_a_fenced_file_can_be_verified(ward: Loaded, tmp_path: Path) -> None:
    fenced = tmp_path / "fenced.db"
    shutil.copy(ward.manifest.file, fenced)
    fence.raise_fence(fenced, run_id="run", note="a test")
    before = fenced.read_bytes()
    assert verify(ward, source=fenced, fail_on_mismatch=True).status == 0
    assert fenced.read_bytes() == before


def test_nothing_is_left_in_the_scratch_folder(ward: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    live = tmp_path / "live.db"
    shutil.copy(ward.manifest.file, live)
    assert verify(ward, source=live).status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["live.db"]


def test_a_table_that_is_not_in_the_plan_is_a_mismatch(ward: Loaded, tmp_path: Path) -> None:
    more = tmp_path / "more.db"
    shutil.copy(ward.manifest.file, more)
    with contextlib.closing(apsw.Connection(str(more))) as connection:
        connection.execute("CREATE TABLE forgotten (id INTEGER)")
    told = verify(ward, source=more, fail_on_mismatch=True)
    assert told.status == 1
    assert "every table of the source is in the plan: forgotten" in told.out


def test_decisions_of_the_plan_are_carried_out_first(ward: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = tmp_path / "plans"
    shutil.copytree(Path("include/plans"), plans)
    text = (plans / "ward_ops.yaml").read_text()
    decision = "  georgian_regions:\n    columns:\n      created_at: {empty_as_null: true}\n"
    (plans / "ward_ops.yaml").write_text(text.replace("  georgian_regions:\n", decision, 1))
    monkeypatch.setenv("CUTOVER_PLANS", str(plans))
    awkward = tmp_path / "awkward.db"
    shutil.copy(ward.manifest.file, awkward)
    with contextlib.closing(apsw.Connection(str(awkward))) as connection:
        connection.execute("UPDATE georgian_regions SET created_at = '' WHERE id = 2")
    with ward.spoiled("UPDATE georgian_regions SET created_at = NULL WHERE id = 2") as conninfo:
        told = verify(ward, conninfo, source=awkward, fail_on_mismatch=True)
        assert told.status == 0, told.out
        assert "with the plan's decisions" in told.out


def test_ignored_tables_are_not_a_mismatch(ward: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(Path("include/plans"), tmp_path / "plans")
    with (tmp_path / "plans" / "ward_ops.yaml").open("a") as plan:
        plan.write("ignored_tables: {scratch: space of an importer}\n")
    monkeypatch.setenv("CUTOVER_PLANS", str(tmp_path / "plans"))
    more = tmp_path / "more.db"
    shutil.copy(ward.manifest.file, more)
    with contextlib.closing(apsw.Connection(str(more))) as connection:
        connection.execute("CREATE TABLE scratch (id INTEGER)")
    told = verify(ward, source=more, fail_on_mismatch=True)
    assert told.status == 0, told.out


# --- when it cannot compare ---------------------------------------------------------------------------------------------


def not_compared(told: Told) -> str:
    assert told.status == 2
    assert told.out == ""
    assert told.err.startswith("cutover: ")
    assert len(told.err.splitlines()) == 1
    return told.err


def test_tables_that_could_not_be_compared_are_never_equal(ward: Loaded, tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"
    assert "there is no such file" in not_compared(verify(ward, source=missing))
    text = tmp_path / "text.db"
    text.write_text("no database")
    assert "not an SQLite database" in not_compared(verify(ward, source=text))
    nowhere = "postgresql://me:s3cret@127.0.0.1:9/none"
    told = not_compared(verify(ward, nowhere))
    assert "the target does not answer" in told
    assert "s3cret" not in told
    assert "the table is not in the plan" in not_compared(verify(ward, tables="user"))
    out, err = io.StringIO(), io.StringIO()
    assert run(VerifyOptions("no_such_plan", ward.manifest.file, ward.conninfo), out=out, err=err) == 2
    assert "there is no plan" in err.getvalue()


def test_a_backup_that_does_not_match_its_manifest_is_refused(ward: Loaded, tmp_path: Path) -> None:
    copy = tmp_path / ward.manifest.file.name
    shutil.copy(ward.manifest.file, copy)
    shutil.copy(ward.manifest.path, tmp_path / ward.manifest.path.name)
    assert verify(ward, source=copy).status == 0
    with copy.open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff")
    assert "the file does not match its manifest" in not_compared(verify(ward, source=copy))


def test_a_damaged_database_is_refused(ward: Loaded, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.db"
    data = bytearray(ward.manifest.file.read_bytes())
    data[4096 * 30 : 4096 * 31] = b"\xff" * 4096
    damaged.write_bytes(data)
    assert "damaged" in not_compared(verify(ward, source=damaged))


def test_a_part_that_cannot_be_read_gives_2_unless_a_difference_is_known(ward: Loaded) -> None:
    with ward.spoiled("CREATE ROLE verify_reader LOGIN PASSWORD 'x'",
                      "GRANT SELECT ON ALL TABLES IN SCHEMA public TO verify_reader",
                      "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO verify_reader",
                      "REVOKE SELECT ON branches FROM verify_reader") as conninfo:  # fmt: skip
        reader = psycopg.conninfo.make_conninfo(conninfo, user="verify_reader", password="x")
        try:
            told = verify(ward, reader)
            assert told.status == 2
            assert "UNKNOWN  branches: permission denied for table branches" in told.out
            assert "NOT COMPARED" in told.out
            assert verify(ward, reader, counts_only=True).status == 2
            # A role that may only read cannot try the plan's SQL: the schema stays unknown.
            told = verify(ward, reader, tables="users", as_json=True)
            assert told.status == 2
            assert {c["name"] for c in told.json["checks"] if c["outcome"] == "unknown"} == {"structure"}
            with psycopg.connect(conninfo) as connection:
                connection.execute("DELETE FROM ping_results WHERE id = 1")
            assert verify(ward, reader, fail_on_mismatch=True).status == 1
            assert verify(ward, reader).status == 2
        finally:
            with psycopg.connect(conninfo, autocommit=True) as connection:
                connection.execute("DROP OWNED BY verify_reader")
                connection.execute("DROP ROLE verify_reader")


def test_a_table_that_is_missing_in_the_target_is_reported(ward: Loaded) -> None:
    with ward.spoiled("DROP TABLE mtr_results") as conninfo:
        told = verify(ward, conninfo, fail_on_mismatch=True)
        assert told.status == 1
        assert "DIFFERS  mtr_results: no such table in the target" in told.out
        # What it holds was not compared, and the rows that are missing are not none.
        assert verify(ward, conninfo).status == 2
        assert verify(ward, conninfo, counts_only=True).status == 2
    with ward.spoiled("DROP TABLE users CASCADE") as conninfo:
        found = next(row for row in verify(ward, conninfo, as_json=True).json["counts"] if row["table"] == "users")
        assert (found["source_rows"], found["target_rows"]) == (ward.manifest.counts["users"], None)
        assert found["source_rows"] > 0


def test_a_source_of_another_application_is_refused(ward: Loaded, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with contextlib.closing(apsw.Connection(str(other))) as connection:
        connection.execute("CREATE TABLE songs (id INTEGER)")
    for options in ({}, {"counts_only": True}, {"tables": "users"}):
        assert "the plan is for another application" in not_compared(verify(ward, source=other, **options))
        told = not_compared(verify(ward, ward.cluster.conninfo(), **options))
        assert "the target has no table of the plan; expected the plan's 25 tables" in told


def test_the_digests_of_another_file_are_not_used(ward: Loaded, tmp_path: Path) -> None:
    """A copied backup may come with the digests of another one."""
    assert verify(ward).status == 0  # its own digests are kept now
    shutil.copy(ward.manifest.file, tmp_path / "changed.db")
    with contextlib.closing(apsw.Connection(str(tmp_path / "changed.db"))) as connection:
        connection.execute("UPDATE users SET full_name = 'somebody else' WHERE id = 1")
    other = backup.take(tmp_path / "changed.db", tmp_path / "backups", None, run_id="other", plan=ward.plan.name)
    shutil.copy(digest_store.beside(ward.manifest.file), digest_store.beside(other.file))
    told = verify(ward, source=other.file, fail_on_mismatch=True)
    assert told.status == 1 and "users, id=1" in told.out
    assert json.loads(digest_store.beside(other.file).read_bytes())["snapshot"] == [other.sha256]


@pytest.mark.parametrize("at", [1, 5])
def test_a_server_that_dies_during_the_comparison_gives_2(
    ward: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Half of a comparison is none: neither equal nor different. At the first table, all others wait for their turn."""
    cluster = Cluster(tmp_path / "postgres", free_port())
    cluster.start({"fsync": "off"})
    try:
        load(cluster.conninfo(), ward.plan, ward.manifest.file, ward.manifest.sqlite_sequence)
        assert verify(ward, cluster.conninfo(), fail_on_mismatch=True).status == 0
        real, asked = digests.of_target, []

        def dying(*arguments: Any) -> Any:
            asked.append(arguments)
            if len(asked) == at:
                postmaster = cluster.postmaster()
                assert postmaster is not None
                os.kill(postmaster, signal.SIGQUIT)
            return real(*arguments)

        monkeypatch.setattr(digests, "of_target", dying)
        told = not_compared(verify(ward, cluster.conninfo(), fail_on_mismatch=True))
        assert "the connection to the target broke" in told or "does not answer" in told
    finally:
        cluster.stop(signal.SIGQUIT)


def test_a_source_that_is_written_all_the_time_can_be_compared(ward: Loaded, tmp_path: Path) -> None:
    """Each comparison is of one moment: what is wrong is what was written, and no row is half there."""
    live = tmp_path / "live.db"
    shutil.copy(ward.manifest.file, live)
    script = (
        "import apsw, sys\n"
        "it = apsw.Connection(sys.argv[1])\n"
        "it.execute('PRAGMA journal_mode = WAL').fetchall()\n"
        "print('open', flush=True)\n"
        "while True:\n"
        "    it.execute(\"BEGIN; INSERT INTO ping_results (device_ip) VALUES ('a'); INSERT INTO ping_results (device_ip)\"\n"
        "               \" VALUES ('b'); COMMIT\").fetchall()\n"
    )
    writing = subprocess.Popen([sys.executable, "-c", script, str(live)], stdout=subprocess.PIPE, text=True)
    try:
        assert writing.stdout is not None
        assert writing.stdout.readline() == "open\n"
        found = verify(ward, source=live, as_json=True, fail_on_mismatch=True)
    finally:
        writing.kill()
        writing.wait(30)
    assert found.status == 1
    wrong = {table["table"]: table for table in found.json["content"] if table["outcome"] != "passed"}
    assert set(wrong) == {"ping_results"}
    pings = wrong["ping_results"]
    assert (pings["extra"], pings["changed"]) == (0, 0) and pings["missing"] % 2 == 0 and pings["missing"] > 0
