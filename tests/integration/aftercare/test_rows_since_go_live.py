"""Rows written after go-live: every kind of change, on a real PostgreSQL, counted and exported exactly."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

from include.cutover.aftercare import row_export, rows_since_go_live
from include.cutover.aftercare.marker import MARKED, Marker, mark
from include.cutover.aftercare.row_changes import Changes, TimeLimit
from include.cutover.aftercare.row_export import ExportedFile
from include.cutover.cli import evidence_check
from include.cutover.decisions import decided_snapshot
from include.cutover.errors import CannotCheck, LeaseLost, Unreachable
from include.cutover.evidence.record import Evidence
from include.cutover.stack.postgres import Cluster, binaries, free_port, without_root
from include.cutover.target import ledger
from include.cutover.target import schema as target_schema
from include.cutover.target import session as target_session
from tests.support.killing import kill_at_every_step

DEVICE, OTHER = "0b51f0a4-8f14-4c4e-9a53-0f6c2d6f7a01", "{0B51F0A48F144C4E9A530F6C2D6F7A02}"

SOURCE = f"""
    CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, price REAL, data BLOB, doc TEXT, raw TEXT, at TEXT);
    INSERT INTO items (id, name) VALUES (-5, 'minus'), (1, 'one'), (2, 'two'), (3, 'three'), (4, 'four');
    CREATE TABLE devices (id UUID PRIMARY KEY, name TEXT);
    INSERT INTO devices VALUES ('{DEVICE.replace("-", "")}', 'with digits alone'), ('{OTHER}', 'in braces');
    CREATE TABLE pairs (a INTEGER, b TEXT, c INTEGER, PRIMARY KEY (a, b)) WITHOUT ROWID;
    INSERT INTO pairs VALUES (1, 'x', 0), (1, 'y', 0), (2, 'x', 0);
    CREATE TABLE "Odd Table/" ("select" TEXT PRIMARY KEY, "ქართული" BOOLEAN);
    INSERT INTO "Odd Table/" VALUES ('{chr(0x1D)}', 1), ('კი', 0);
    CREATE TABLE log (line TEXT);
    INSERT INTO log VALUES ('a'), ('a'), ('b');
    CREATE TABLE regions (code TEXT PRIMARY KEY, name TEXT);
    CREATE TABLE parts (id INTEGER PRIMARY KEY, day TEXT);
    INSERT INTO parts VALUES (1, '2025-01-01'), (2, '2026-01-01');
    CREATE TABLE quiet (id INTEGER PRIMARY KEY);
    INSERT INTO quiet VALUES (1);
"""

TARGET = f"""
    CREATE TABLE items (id bigint PRIMARY KEY, name text, price float8, data bytea, doc jsonb, raw json, at timestamptz,
                        double float8 GENERATED ALWAYS AS (price * 2) STORED);
    INSERT INTO items (id, name) VALUES (-5, 'minus'), (1, 'one'), (2, 'two'), (3, 'three'), (4, 'four');
    CREATE TABLE devices (id uuid PRIMARY KEY, name text);
    INSERT INTO devices VALUES ('{DEVICE}', 'with digits alone'), ('{OTHER}', 'in braces');
    CREATE TABLE pairs (a bigint, b text, c int, PRIMARY KEY (a, b));
    INSERT INTO pairs VALUES (1, 'x', 0), (1, 'y', 0), (2, 'x', 0);
    CREATE TABLE "Odd Table/" ("select" text PRIMARY KEY, "ქართული" boolean);
    INSERT INTO "Odd Table/" VALUES ('{chr(0x1D)}', true), ('კი', false);
    CREATE TABLE log (line text);
    INSERT INTO log VALUES ('a'), ('a'), ('b');
    CREATE TABLE regions (code text PRIMARY KEY, name text);
    INSERT INTO regions VALUES ('TB', 'Tbilisi'), ('AJ', 'Adjara');
    CREATE TABLE parts (id bigint, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE parts_2025 PARTITION OF parts FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE parts_2026 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    INSERT INTO parts VALUES (1, '2025-01-01'), (2, '2026-01-01');
    CREATE TABLE quiet (id bigint PRIMARY KEY);
    INSERT INTO quiet VALUES (1);
    CREATE TABLE schema_migrations (name text);
"""

ROWS = {"items": 5, "devices": 2, "pairs": 3, "Odd Table/": 2, "log": 3, "regions": 2, "parts": 2, "quiet": 1}


@dataclass
class Site:
    """A target as it is at go-live, and the SQLite file that was copied into it."""

    conninfo: str
    snapshot: Path
    epoch: int

    def run(self, *statements: str) -> None:
        """Each in a transaction of its own."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def mark(self) -> Marker:
        return mark(self.conninfo, "public", "run", ledger.guard("run", self.epoch), ROWS)

    def count(self, marker: Marker, snapshot: Path | None = None) -> dict[str, Changes]:
        found = rows_since_go_live.count(self.conninfo, "public", marker, snapshot or self.snapshot)
        return {table: changes for table, changes in found.items() if changes.any}

    def export(self, marker: Marker, folder: Path, snapshot: Path | None = None) -> rows_since_go_live.Exported:
        with target_session.session(self.conninfo, "public") as connection, connection.transaction():
            target_schema.lock_tables(connection, "public")
            return rows_since_go_live.export(connection, "public", marker, snapshot or self.snapshot, folder)


@pytest.fixture
def site(conninfo: str, tmp_path: Path) -> Site:
    snapshot = tmp_path / "snapshot.db"
    with closing(apsw.Connection(str(snapshot))) as connection:
        connection.execute(SOURCE)
    ledger.ensure(conninfo)
    site = Site(conninfo, snapshot, ledger.open_run(conninfo, "run", "plan"))
    site.run(TARGET)
    return site


def changes(table: str, inserted: int | None = 0, updated: int | None = 0, deleted: int = 0, **others: Any) -> Changes:
    return Changes(table, others.pop("written", (inserted or 0) + (updated or 0)), inserted, updated, deleted, **others)


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_bytes().splitlines()]


def operations(folder: Path, name: str) -> list[tuple[Any, Any]]:
    return [(line["operation"], line["key"]) for line in lines(folder, name)]


# --- what was written ---------------------------------------------------------------------------------------------------


def test_without_writes_nothing_is_counted_or_exported(site: Site, tmp_path: Path) -> None:
    marker = site.mark()
    site.run("SELECT * FROM items FOR UPDATE", "BEGIN; INSERT INTO items VALUES (99); ROLLBACK", "ANALYZE")
    site.run("INSERT INTO items VALUES (98)", "DELETE FROM items WHERE id = 98")
    assert site.count(marker) == {}
    found = site.export(marker, tmp_path / "out")
    assert found.files == () and set(found.changes) == set(ROWS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["README.txt"]


EVERYTHING = (
    "INSERT INTO items VALUES (10, E'new\\nline\\\\ \"quoted\" \\u10d9', 'NaN', '\\x00ff', '{\"b\": [1, null], \"a\": 1e3}',"
    " E'{\"as\":\\n  \"typed\"}', '2026-02-03 04:05:06.789+04')",
    "INSERT INTO items (id, price) VALUES (11, 0.1)",
    "UPDATE items SET name = 'ONE' WHERE id IN (1, -5)",
    "DELETE FROM items WHERE id IN (2, 3)",
    f"UPDATE devices SET name = 'x' WHERE id = '{DEVICE}'",
    "DELETE FROM devices WHERE name = 'in braces'",
    "INSERT INTO devices VALUES ('99999999-9999-4999-8999-999999999999', 'new')",
    "UPDATE pairs SET b = 'z' WHERE a = 2",
    "UPDATE pairs SET c = 1 WHERE (a, b) = (1, 'y')",
    'DELETE FROM "Odd Table/" WHERE NOT "ქართული"',
    "INSERT INTO \"Odd Table/\" VALUES (E'\\x1f', NULL)",
    "UPDATE parts SET day = '2026-05-05' WHERE id = 1",
    "INSERT INTO parts VALUES (3, '2025-05-05')",
)

FOUND = {
    "items": changes("items", 2, 2, 2),
    "devices": changes("devices", 1, 1, 1),
    "pairs": changes("pairs", 1, 1, 1),
    "Odd Table/": changes("Odd Table/", 1, 0, 1),
    "parts": changes("parts", 1, 1, 0),
}


def test_every_kind_of_change_is_counted(site: Site) -> None:
    marker = site.mark()
    site.run(*EVERYTHING)
    assert site.count(marker) == FOUND
    assert str(FOUND["items"]) == "items: 2 inserted, 2 updated, 2 deleted"


def test_every_kind_of_change_is_exported_whole(site: Site, tmp_path: Path) -> None:
    marker = site.mark()
    site.run(*EVERYTHING)
    folder = tmp_path / "out"
    found = site.export(marker, folder)
    assert {table: item for table, item in found.changes.items() if item.any} == FOUND
    assert operations(folder, "items") == [
        ("update", {"id": -5}), ("update", {"id": 1}), ("insert", {"id": 10}), ("insert", {"id": 11}),
        ("delete", {"id": 2}), ("delete", {"id": 3}),
    ]  # fmt: skip
    assert operations(folder, "devices") == [
        ("update", {"id": DEVICE}), ("insert", {"id": "99999999-9999-4999-8999-999999999999"}), ("delete", {"id": OTHER}),
    ]  # fmt: skip
    assert operations(folder, "pairs") == [
        ("update", {"a": 1, "b": "y"}), ("insert", {"a": 2, "b": "z"}), ("delete", {"a": 2, "b": "x"}),
    ]  # fmt: skip
    assert operations(folder, "Odd%20Table%2F") == [("insert", {"select": "\x1f"}), ("delete", {"select": "კი"})]
    assert {item.table: item.lines for item in found.files} == {
        "Odd Table/": 2, "devices": 3, "items": 6, "pairs": 3, "parts": 2,
    }  # fmt: skip
    for path in [folder, *folder.iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path == folder else 0o600), path
    # A row that was exported is the row: made anew from its line it is equal, in every column.
    with psycopg.connect(site.conninfo) as connection:
        query = "SELECT (item #- '{raw}')::text FROM to_jsonb(jsonb_populate_record(NULL::items, %s::jsonb)) AS item"
        for line in lines(folder, "items")[:4]:  # json is typed text, and may come back with other blanks
            again = connection.execute(query, [json.dumps(line["row"])]).fetchone()
            whole = "SELECT (to_jsonb(items) #- '{raw}')::text FROM items WHERE id = %s"
            assert again == connection.execute(whole, [line["key"]["id"]]).fetchone()
        assert lines(folder, "items")[2]["row"] == {
            "id": 10, "name": 'new\nline\\ "quoted" კ', "price": "NaN", "double": "NaN", "data": "\\x00ff",
            "doc": {"a": 1000, "b": [1, None]}, "raw": {"as": "typed"}, "at": "2026-02-03T00:05:06.789+00:00",
        }  # fmt: skip


@pytest.mark.parametrize(
    "maintenance",
    [
        ("VACUUM (FREEZE)",),
        ("VACUUM (FULL, FREEZE)",),
        ("CLUSTER items USING items_pkey", "CLUSTER devices USING devices_pkey"),
        ("REINDEX TABLE items", "CHECKPOINT", "ALTER TABLE items ADD COLUMN later int DEFAULT 7"),
    ],
)
def test_maintenance_of_the_server_changes_no_count(site: Site, maintenance: tuple[str, ...]) -> None:
    marker = site.mark()
    site.run(*EVERYTHING)
    site.run(*maintenance)
    assert site.count(marker)["items"] == FOUND["items"]
    assert site.count(marker)["devices"] == FOUND["devices"]


def test_a_rewritten_table_counts_too_much_and_never_too_little(site: Site) -> None:
    marker = site.mark()
    site.run(*EVERYTHING, "ALTER TABLE items ALTER COLUMN name TYPE varchar(99)")
    assert site.count(marker)["items"] == changes("items", 2, 3, 2)


def test_subtransactions_and_two_phases_are_found(site: Site) -> None:
    marker = site.mark()
    with psycopg.connect(site.conninfo) as connection:
        for number in (20, 21):
            with connection.transaction():
                connection.execute("INSERT INTO items (id) VALUES (%s)", [number])
                with connection.transaction():
                    connection.execute("UPDATE items SET name = 'in a savepoint' WHERE id = %s", [number])
    site.run("BEGIN; INSERT INTO items (id) VALUES (22); PREPARE TRANSACTION 'two'", "COMMIT PREPARED 'two'")
    assert site.count(marker) == {"items": changes("items", 3)}


def test_a_transaction_that_was_open_at_go_live_is_found(site: Site) -> None:
    site.run("CREATE SCHEMA elsewhere", "CREATE TABLE elsewhere.t (a int)")
    with psycopg.connect(site.conninfo) as connection:
        connection.execute("INSERT INTO elsewhere.t VALUES (1)")  # it has a number now, lower than later ones
        site.run("INSERT INTO elsewhere.t VALUES (2)")
        marker = site.mark()
        assert len(marker.open) == 1
        connection.execute("INSERT INTO items (id) VALUES (30)")
    assert site.count(marker) == {"items": changes("items", 1)}


def test_a_session_that_is_writing_prevents_the_marker(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_session, "LOCK_TIMEOUT", "100ms")
    with psycopg.connect(site.conninfo) as connection:
        connection.execute("INSERT INTO items (id) VALUES (30)")
        with pytest.raises(Unreachable, match="another transaction is writing"):
            site.mark()
    assert site.mark().rows == ROWS


def test_the_first_marker_stays(site: Site) -> None:
    first = site.mark()
    site.run("INSERT INTO items (id) VALUES (30)")
    assert site.mark() == first
    assert Marker.from_dict(json.loads(json.dumps(first.as_dict()))) == first
    ledger.take_over(site.conninfo, "run", "rollback")
    with pytest.raises(LeaseLost):
        site.mark()


def test_without_a_key_the_deletes_are_a_lower_bound(site: Site, tmp_path: Path) -> None:
    marker = site.mark()
    site.run(
        "UPDATE log SET line = 'c' WHERE line = 'b'", "INSERT INTO log VALUES ('d')", "DELETE FROM log WHERE line = 'a'"
    )
    site.run("UPDATE regions SET name = 'x' WHERE code = 'TB'")
    found = site.count(marker)
    assert found == {
        "log": changes("log", None, None, 1, written=2, exact=False),
        "regions": changes("regions", None, None, 0, written=1, exact=False),
    }
    assert str(found["log"]) == "log: 2 inserted or updated, at least 1 deleted"
    site.export(marker, tmp_path / "out")
    assert operations(tmp_path / "out", "log") == [(None, None), (None, None)]
    assert operations(tmp_path / "out", "regions") == [(None, {"code": "TB"})]


def test_a_table_that_was_empty_holds_only_new_rows(site: Site) -> None:
    site.run("TRUNCATE log")
    marker = replace(site.mark(), rows={**ROWS, "log": 0})
    site.run("INSERT INTO log VALUES ('a'), ('a')")
    assert site.count(marker) == {"log": changes("log", 2)}


def test_a_dropped_table_and_a_new_one_are_counted(site: Site, tmp_path: Path) -> None:
    marker = site.mark()
    site.run("DROP TABLE quiet", "CREATE TABLE later (id int PRIMARY KEY, word text)", "INSERT INTO later VALUES (1, 'x')")
    assert site.count(marker) == {"quiet": changes("quiet", 0, 0, 1), "later": changes("later", 1)}
    site.export(marker, tmp_path / "out")
    assert lines(tmp_path / "out", "later") == [{"operation": "insert", "key": {"id": 1}, "row": {"id": 1, "word": "x"}}]


def test_without_the_snapshot_all_rows_are_exported_without_their_kind(site: Site, tmp_path: Path) -> None:
    marker = site.mark()
    site.run(*EVERYTHING)
    assert site.count(marker, tmp_path / "gone.db")["items"] == changes("items", None, None, 0, written=4, exact=False)
    site.export(marker, tmp_path / "out", tmp_path / "gone.db")
    assert operations(tmp_path / "out", "items") == [(None, {"id": number}) for number in (-5, 1, 10, 11)]


def test_counting_while_the_application_writes_gives_one_moment(site: Site) -> None:
    marker = site.mark()
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(site.conninfo) as connection:
            number = 1000
            while not stop.is_set():
                number += 1
                connection.execute("INSERT INTO items (id) VALUES (%s)", [number])
                connection.execute("INSERT INTO log VALUES ('x')")
                connection.commit()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            last = 0
            while last < 50:
                found = site.count(marker)
                if found:
                    assert found["items"].inserted == found["log"].written, "both tables are of the same moment"
                    last = found["items"].inserted or 0
                assert not writing.done()
        finally:
            stop.set()
        writing.result()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"server": "1"}, "on another server"),
        ({"snapshot": "9000000000:9000000000:"}, "restored to a time"),
        ({"snapshot": "-3000000000:-3000000000:"}, "transactions have passed"),
    ],
)
def test_another_server_or_time_is_refused_and_not_guessed(site: Site, change: Mapping[str, Any], found: str) -> None:
    marker = replace(site.mark(), **change)
    with pytest.raises(CannotCheck, match=found):
        site.count(marker)


def test_the_numbers_of_transactions_may_wrap_around(tmp_path: Path) -> None:
    """A server whose 32 bits run over between go-live and the count, with rows that are frozen since."""
    cluster = Cluster(tmp_path / "old", free_port())
    cluster.start({"fsync": "off"})
    for database in ("template1", "postgres"):
        with psycopg.connect(cluster.conninfo(database), autocommit=True) as connection:
            connection.execute("VACUUM (FREEZE)")
    cluster.stop()
    data = cluster.folder / "data"
    following = 2**32 - 40
    clog = data / "pg_xact" / f"{following // (32768 * 32):04X}"
    clog.write_bytes(bytes(256 * 1024))
    os.chown(clog, data.stat().st_uid, data.stat().st_gid)
    reset = [str(binaries() / "pg_resetwal"), "-f", "-x", str(following), "-u", str(following - 3), str(data)]

    done = subprocess.run(without_root(reset), capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    cluster.start({"fsync": "off", "autovacuum": "off"})
    try:
        snapshot = tmp_path / "snapshot.db"
        with closing(apsw.Connection(str(snapshot))) as connection:
            connection.execute(SOURCE)
        ledger.ensure(cluster.conninfo())
        site = Site(cluster.conninfo(), snapshot, ledger.open_run(cluster.conninfo(), "run", "plan"))
        site.run(TARGET)
        marker = site.mark()
        assert marker.following < 2**32
        site.run("UPDATE items SET name = 'before the turn' WHERE id = 1")
        site.run(*["CREATE TABLE IF NOT EXISTS public.t_turn (a int); DROP TABLE t_turn"] * 60)
        site.run("UPDATE items SET name = 'after the turn' WHERE id = 2", "VACUUM (FREEZE) items")
        assert site.count(marker) == {"items": changes("items", 0, 2)}
        with psycopg.connect(site.conninfo) as connection:
            raw = [int(xmin) for (xmin,) in connection.execute("SELECT xmin::text FROM items ORDER BY id")]
        assert raw[2] < raw[1], "it did wrap"
    finally:
        cluster.stop()


# --- time, disks, kills -------------------------------------------------------------------------------------------------


def test_it_gives_up_in_time_and_the_transaction_goes_on(site: Site, tmp_path: Path) -> None:
    marker = site.mark()
    site.run("INSERT INTO items (id) SELECT generate_series(100, 50000)")
    with pytest.raises(CannotCheck, match=r"at most 0\.001 s"):
        rows_since_go_live.count(site.conninfo, "public", marker, site.snapshot, seconds=0.001)
    with target_session.session(site.conninfo, "public") as connection, connection.transaction():
        with pytest.raises(CannotCheck):
            rows_since_go_live.export(connection, "public", marker, site.snapshot, tmp_path / "out", seconds=0.001)
        assert connection.execute("SHOW statement_timeout").fetchone() == (target_session.STATEMENT_TIMEOUT,)
        rows_since_go_live.export(connection, "public", marker, site.snapshot, tmp_path / "out")
        assert connection.execute("SHOW statement_timeout").fetchone() == (target_session.STATEMENT_TIMEOUT,)
        assert connection.execute("SELECT count(*) FROM items").fetchone() == (49_906,)
    assert len(lines(tmp_path / "out", "items")) == 49_901


def test_a_file_that_cannot_be_written_is_reported_and_the_numbers_stay(site: Site, tmp_path: Path) -> None:
    marker = site.mark()
    site.run(*EVERYTHING)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".devices.jsonl.part").symlink_to("/nowhere")
    found = site.export(marker, folder)
    assert found.problem and [item.name for item in found.files] == ["Odd%20Table%2F.jsonl"]
    assert {table: item for table, item in found.changes.items() if item.any} == FOUND


def test_a_time_limit_during_writing_is_reported_and_the_numbers_stay(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = site.mark()
    site.run(*EVERYTHING)
    write = row_export._write

    def slow(folder: Path, table: str, lines: Iterable[bytes]) -> ExportedFile:
        monkeypatch.setattr(TimeLimit, "over", lambda _: True)
        return write(folder, table, lines)

    monkeypatch.setattr(row_export, "_write", slow)
    with target_session.session(site.conninfo, "public") as connection, connection.transaction():
        found = rows_since_go_live.export(connection, "public", marker, site.snapshot, tmp_path / "out")
        assert connection.execute("SELECT count(*) FROM devices").fetchone() == (2,), "the transaction goes on"
    assert found.problem.endswith("at most 180 s") and found.files == ()
    assert {table: item for table, item in found.changes.items() if item.any} == FOUND
    assert [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == []


def test_killed_anywhere_a_file_is_whole_or_not_there(site: Site, tmp_path: Path) -> None:
    marker = site.mark()
    site.run("INSERT INTO items (id) VALUES (10)", "UPDATE devices SET name = 'x'")
    folder = tmp_path / "out"
    site.export(marker, tmp_path / "expected")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "expected").iterdir()}

    def begin() -> None:
        for path in folder.iterdir() if folder.exists() else ():
            path.unlink()

    for place in kill_at_every_step(begin, lambda: site.export(marker, folder), after=False):
        for path in folder.iterdir() if folder.exists() else ():
            assert path.name.startswith(".") or path.read_bytes() == expected[path.name], place
        site.export(marker, folder)
        left = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".README")}
        assert left == expected, place


# --- in the evidence ----------------------------------------------------------------------------------------------------


@pytest.fixture
def evidence(site: Site) -> Iterator[Evidence]:
    evidence = Evidence.of("plan", "run")
    evidence.append("run.opened", run_id="run", plan="plan")
    evidence.append("snapshot", decided=decided_snapshot.untouched(site.snapshot).as_dict())
    yield evidence


def test_before_go_live_nothing_is_counted_or_recorded(site: Site, evidence: Evidence) -> None:
    told = rows_since_go_live.record_count(evidence, lambda: "public", lambda: site.conninfo)
    assert (told.summary, told.figures) == ("", {})
    assert evidence.last(rows_since_go_live.WRITTEN) is None


def test_counted_before_the_rollback_and_exported_in_it(site: Site, evidence: Evidence) -> None:
    evidence.append(MARKED, **site.mark().as_dict())
    site.run("INSERT INTO items (id, name) VALUES (10, 'a secret word')", "DELETE FROM devices")
    told = rows_since_go_live.record_count(evidence, lambda: "public", lambda: site.conninfo)
    assert told.summary == "written after go-live: devices: 2 deleted; items: 1 inserted"
    with target_session.session(site.conninfo, "public") as connection, connection.transaction():
        again = rows_since_go_live.record_export(evidence, "public", connection)
    assert again.summary == f"{told.summary}; exported to kept/rows_after_go_live"
    assert again.figures == told.figures == rows_since_go_live.newest(evidence).figures
    recorded = evidence.last(rows_since_go_live.WRITTEN)
    assert recorded is not None and [item["name"] for item in recorded["files"]] == ["devices.jsonl", "items.jsonl"]
    assert (evidence.folder / recorded["folder"] / "items.jsonl").is_file()
    assert "a secret word" not in (evidence.folder / "events.jsonl").read_text()
    assert {check.outcome for check in evidence_check.check(evidence.folder)} == {"passed"}
    (evidence.folder / recorded["folder"] / "items.jsonl").write_text("")
    assert "failed" in {check.outcome for check in evidence_check.check(evidence.folder)}


def test_with_postgresql_down_the_number_is_unknown(site: Site, evidence: Evidence) -> None:
    evidence.append(MARKED, **site.mark().as_dict())
    down = f"host=127.0.0.1 port={free_port()} user=x password=hunter2 dbname=x"
    told = rows_since_go_live.record_count(evidence, lambda: "public", lambda: down)
    assert told.figures == "unknown" and told.summary.startswith("the rows written after go-live are unknown: the target")
    recorded = evidence.last(rows_since_go_live.WRITTEN)
    assert recorded is not None and recorded["tables"] is None and "hunter2" not in str(recorded)
    assert rows_since_go_live.newest(evidence).figures == "unknown"


def test_without_a_marker_the_rows_of_an_application_with_access_are_unknown(site: Site, evidence: Evidence) -> None:
    evidence.append("services.started", on="target")
    told = rows_since_go_live.record_count(evidence, lambda: "public", lambda: site.conninfo)
    assert told.figures == "unknown" and "no marker" in told.summary


def test_an_unexpected_error_is_unknown_and_does_not_stop_the_rollback(
    site: Site, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence.append(MARKED, **{**site.mark().as_dict(), "snapshot": "nonsense"})
    with target_session.session(site.conninfo, "public") as connection, connection.transaction():
        assert rows_since_go_live.record_export(evidence, "public", connection).figures == "unknown"
        assert connection.execute("SELECT 1").fetchone() == (1,), "the transaction goes on"
