"""The runner of SQL files on a real PostgreSQL: once each, all or nothing, and errors that say where."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from include.cutover.errors import CannotCheck, LeaseLost, PlanInvalid, Refused, StepFailed, Unreachable
from include.cutover.places import ROOT
from include.cutover.stack.postgres import free_port
from include.cutover.target import catalog, sql_files, sql_runner
from include.cutover.target import session as target_session
from tests.unit.target.test_sql_files import write

TABLE = "CREATE TABLE first (id integer);"


def run(conninfo: str, folder: Path, kind: str = "pre_data", schema: str = "app", **arguments: Any) -> list[str]:
    return sql_runner.apply(conninfo, folder, kind, schema=schema, run_id="run-1", **arguments)


def ask(conninfo: str, query: str, *values: Any) -> Any:
    """The first column of the first row; None where there is no row."""
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(query.encode(), values).fetchone()
        return None if row is None else row[0]


def things(conninfo: str, schema: str = "app") -> set[str]:
    with psycopg.connect(conninfo) as connection:
        return sql_runner.objects(connection, schema)


def records(conninfo: str, schema: str = "app") -> list[str]:
    with psycopg.connect(conninfo) as connection:
        return [record.name for record in sql_runner.applied(connection, schema)]


def test_files_are_applied_in_order_once_and_recorded(conninfo: str, tmp_path: Path) -> None:
    write(tmp_path, pre_data__001_a=TABLE, pre_data__002_b="ALTER TABLE first ADD COLUMN name text;")
    assert run(conninfo, tmp_path) == ["pre_data/001_a.sql", "pre_data/002_b.sql"]
    assert run(conninfo, tmp_path) == []
    found = sql_files.discover(tmp_path)
    with psycopg.connect(conninfo) as connection:
        done = sql_runner.applied(connection, "app")
        rows = connection.execute("SELECT kind, name, sha256, run_id FROM app.schema_migrations ORDER BY name").fetchall()
    assert [(item.name, item.sha256, item.run_id) for item in done] == [(item.name, item.sha256, "run-1") for item in found]
    assert done[0].applied_at <= done[1].applied_at
    assert rows == [("pre_data", item.name, item.sha256, "run-1") for item in found]


def test_a_new_file_is_applied_by_the_next_run(conninfo: str, tmp_path: Path) -> None:
    run(conninfo, write(tmp_path, pre_data__001_a=TABLE))
    write(tmp_path, pre_data__002_b="CREATE TABLE second ();", migrations__001_m="CREATE TABLE third ();")
    assert run(conninfo, tmp_path) == ["pre_data/002_b.sql"]
    assert run(conninfo, tmp_path, "migrations") == ["migrations/001_m.sql"]
    assert records(conninfo) == ["pre_data/001_a.sql", "pre_data/002_b.sql", "migrations/001_m.sql"]


@pytest.mark.parametrize("kind", ["pre_data", "migrations"])
def test_a_changed_file_is_refused_whatever_kind_is_applied_next(conninfo: str, tmp_path: Path, kind: str) -> None:
    run(conninfo, write(tmp_path, pre_data__001_a=TABLE))
    write(
        tmp_path, pre_data__001_a=TABLE + "\n", pre_data__002_b="CREATE TABLE b ();", migrations__001_m="CREATE TABLE m ();"
    )
    before = things(conninfo)
    with pytest.raises(Refused, match=r"pre_data/001_a\.sql was changed after run-1 applied it") as caught:
        run(conninfo, tmp_path, kind)
    assert "a new file with the next number" in str(caught.value)
    assert things(conninfo) == before


def test_an_applied_file_that_is_gone_is_refused(conninfo: str, tmp_path: Path) -> None:
    run(conninfo, write(tmp_path, pre_data__001_a=TABLE, pre_data__002_b="CREATE TABLE b ();"))
    (tmp_path / "pre_data/002_b.sql").unlink()
    with pytest.raises(Refused, match=r"pre_data/002_b\.sql was applied by run-1 and is missing now"):
        run(conninfo, tmp_path)


def test_removed_record_does_not_let_an_old_file_run_again(conninfo: str, tmp_path: Path) -> None:
    run(conninfo, write(tmp_path, pre_data__001_a=TABLE, pre_data__002_b="CREATE TABLE b ();"))
    ask(conninfo, "DELETE FROM app.schema_migrations WHERE name = 'pre_data/001_a.sql' RETURNING 1")
    with pytest.raises(Refused, match="a later file was applied before this one"):
        run(conninfo, tmp_path)


def test_a_fault_of_the_folder_changes_nothing(conninfo: str, tmp_path: Path) -> None:
    with pytest.raises(PlanInvalid):
        run(conninfo, write(tmp_path, pre_data__001_a=TABLE, post_data__002_b="SELECT 1"))
    assert ask(conninfo, "SELECT to_regnamespace('app')") is None


def test_unknown_kind_is_a_value_error(conninfo: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="smoke"):
        run(conninfo, write(tmp_path, pre_data__001_a=TABLE), "smoke")


@pytest.mark.parametrize("kind", ["migrations", "post_data", "reference", "foreign_keys"])
def test_kind_before_its_prerequisites_is_refused(conninfo: str, tmp_path: Path, kind: str) -> None:
    write(tmp_path, pre_data__001_a=TABLE, migrations__001_a="SELECT 1", post_data__001_a="SELECT 1")
    write(tmp_path, **{f"{kind}__001_a": "SELECT 1"})
    with pytest.raises(Refused, match=f"{kind} comes after pre_data"):
        run(conninfo, tmp_path, kind)
    run(conninfo, tmp_path)
    if kind != "migrations":
        with pytest.raises(Refused, match=f"{kind} comes after migrations"):
            run(conninfo, tmp_path, kind)


@pytest.mark.parametrize(
    "text",
    [
        "COMMIT;",
        "commit and chain;",
        "/* a comment */ ROLLBACK",
        "BEGIN; CREATE TABLE second (); COMMIT;",
        "START TRANSACTION;",
        "END;",
        "ABORT;",
        "SAVEPOINT here; CREATE TABLE second ();",
        "PREPARE TRANSACTION 'x';",
        "DO $$ BEGIN COMMIT; END $$;",
        "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$; CALL p();",
        "CREATE TABLE second (); DO $$ BEGIN EXECUTE 'COMMIT'; END $$;",
    ],
)
def test_a_file_that_ends_its_transaction_is_refused_and_leaves_nothing(conninfo: str, tmp_path: Path, text: str) -> None:
    write(tmp_path, pre_data__001_a=TABLE, pre_data__002_b=f"CREATE TABLE half ();\n{text}\n;CREATE TABLE whole ();")
    with pytest.raises((Refused, StepFailed), match=r"pre_data/002_b\.sql") as caught:
        run(conninfo, tmp_path)
    assert "transaction" in str(caught.value)
    assert things(conninfo) == {"table app.first", "table app.schema_migrations"}
    assert records(conninfo) == ["pre_data/001_a.sql"]


def test_refused_first_file_leaves_no_schema(conninfo: str, tmp_path: Path) -> None:
    with pytest.raises(Refused):
        run(conninfo, write(tmp_path, pre_data__001_a=f"{TABLE} COMMIT;"))
    assert ask(conninfo, "SELECT to_regnamespace('app')") is None


def test_commit_in_comments_strings_and_bodies_is_allowed(conninfo: str, tmp_path: Path) -> None:
    text = """
        -- COMMIT;
        /* ROLLBACK; /* nested; COMMIT; */ ; */
        CREATE TABLE first (id integer, "commit; begin" text DEFAULT 'it''s; COMMIT;', other text DEFAULT E'\\'; COMMIT;');
        CREATE PROCEDURE later() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO first (id) VALUES (1); COMMIT; END $$;
        CREATE FUNCTION one() RETURNS integer BEGIN ATOMIC SELECT 1; SELECT 2; END;
        DO $outer$ BEGIN EXECUTE $inner$ CREATE TABLE second (); CREATE TABLE third (); $inner$; END $outer$;
        INSERT INTO first (id) VALUES (50 % 7);
        SELECT * FROM first
    """
    run(conninfo, write(tmp_path, pre_data__001_a=text))
    assert things(conninfo) == {
        "table app.schema_migrations", "table app.first", "table app.second", "table app.third",
        "procedure app.later()", "function app.one()",
    }  # fmt: skip
    assert ask(conninfo, 'SELECT array[id::text, "commit; begin", other] FROM app.first') == [
        "1", "it's; COMMIT;", "'; COMMIT;",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["CREATE INDEX CONCURRENTLY i ON first (id);", "VACUUM first;"])
def test_statement_that_cannot_run_in_a_transaction_is_refused(conninfo: str, tmp_path: Path, text: str) -> None:
    write(tmp_path, pre_data__001_a=TABLE, post_data__001_i=f"CREATE TABLE half (); {text}")
    run(conninfo, tmp_path)
    with pytest.raises(Refused, match=r"post_data/001_i\.sql: a statement of the file cannot run in a transaction"):
        run(conninfo, tmp_path, "post_data")
    assert things(conninfo) == {"table app.first", "table app.schema_migrations"}


def test_copy_from_the_client_is_refused(conninfo: str, tmp_path: Path) -> None:
    write(tmp_path, pre_data__001_a=TABLE, reference__001_r="COPY first FROM stdin;")
    run(conninfo, tmp_path)
    with pytest.raises(Refused, match="no COPY from or to the client"):
        run(conninfo, tmp_path, "reference")


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        ("SELECT 1;\n  SELEC 2;", "2:3", 'syntax error at or near "SELEC"'),
        ("-- ქართული\nSELECT 'აბგ', nothing;", "2:15", 'column "nothing" does not exist'),
        ("\ufeff" + TABLE + "\r\n\tSELECT * FROM missing;", "2:16", 'relation "missing" does not exist'),
        ("SELECT 1;\nDO $$\nBEGIN\n  INSERT INTO missing VALUES (1);\nEND $$;", "4:15", 'relation "missing" does not exist'),
        ("SELECT 'x'::integer;", "1:8", 'invalid input syntax for type integer: "x"'),
        ("CREATE TABLE a (id strange);", "1:20", 'type "strange" does not exist'),
    ],
)
def test_an_error_names_file_line_and_column(conninfo: str, tmp_path: Path, content: str, place: str, message: str) -> None:
    with pytest.raises(StepFailed) as caught:
        run(conninfo, write(tmp_path, pre_data__001_a=content))
    assert caught.value.where == f"pre_data/001_a.sql:{place}"
    assert message in caught.value.found
    assert ask(conninfo, "SELECT to_regnamespace('app')") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ALTER TABLE t ADD CONSTRAINT t_key UNIQUE (token);", "t_key"),
        ("ALTER TABLE t ALTER token TYPE integer USING token::integer;", "InvalidTextRepresentation"),
        ("ALTER TABLE t ADD CHECK (token <> 'S3cret');", "t_token_check"),
        ("INSERT INTO t VALUES (NULL, 'S3cret');", "null value in column"),
    ],
)
def test_an_error_never_shows_what_a_row_holds(
    conninfo: str, tmp_path: Path, text: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, pre_data__001_a="CREATE TABLE t (id integer NOT NULL, token text);", post_data__001_p=text)
    run(conninfo, tmp_path)
    ask(conninfo, "INSERT INTO app.t VALUES (1, 'S3cret'), (2, 'S3cret') RETURNING 1")
    with pytest.raises(StepFailed) as caught:
        run(conninfo, tmp_path, "post_data")
    assert told in str(caught.value)
    assert "S3cret" not in str(caught.value) + caplog.text
    assert caught.value.__suppress_context__


def test_a_constraint_that_fails_at_commit_still_names_the_file(conninfo: str, tmp_path: Path) -> None:
    text = """
        CREATE TABLE p (id integer PRIMARY KEY);
        CREATE TABLE c (p integer REFERENCES p DEFERRABLE INITIALLY DEFERRED);
        INSERT INTO c VALUES (1);
    """
    with pytest.raises(StepFailed, match=r"pre_data/001_a\.sql.*c_p_fkey"):
        run(conninfo, write(tmp_path, pre_data__001_a=text))
    assert ask(conninfo, "SELECT to_regnamespace('app')") is None


def test_settings_of_a_file_end_with_it(conninfo: str, tmp_path: Path) -> None:
    seen = "CREATE TABLE {} AS SELECT current_setting('search_path') AS path, current_setting('TimeZone') AS zone;"
    write(
        tmp_path,
        pre_data__001_a=seen.format("before")
        + "SET search_path = pg_temp; SET TimeZone = 'Asia/Tbilisi'; SET ROLE pg_monitor;",
        pre_data__002_b=seen.format("after"),
    )
    with pytest.raises(Refused, match="may not do this"):
        run(conninfo, tmp_path)  # as that role the record cannot be written
    write(tmp_path, pre_data__001_a=seen.format("before") + "SET search_path = pg_temp; SET TimeZone = 'Asia/Tbilisi';")
    run(conninfo, tmp_path)
    assert ask(conninfo, "SELECT array[path, zone] FROM app.before") == ["app", "UTC"]
    assert ask(conninfo, "SELECT array[path, zone] FROM app.after") == ["app", "UTC"]


def test_a_session_has_bounded_waits_and_a_name(conninfo: str, tmp_path: Path) -> None:
    names = "application_name, client_connection_check_interval, lock_timeout, statement_timeout, transaction_isolation"
    values = ", ".join(f"current_setting('{name}')" for name in names.split(", "))
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = 'serializable'").format(
                sql.Identifier(connection.info.dbname)
            )
        )
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(
                sql.Identifier(connection.info.dbname)
            )
        )
    write(tmp_path, pre_data__001_a=f"CREATE TABLE seen AS SELECT array[{values}] AS value;")
    run(conninfo, tmp_path, application_name="run-1:apply_ddl")
    assert ask(conninfo, "SELECT value FROM app.seen") == ["run-1:apply_ddl", "1s", "10s", "30min", "read committed"]


def test_a_large_file_with_many_statements(conninfo: str, tmp_path: Path) -> None:
    rows = "".join(f"INSERT INTO first VALUES ({number}); -- რიგი {number}\n" for number in range(20_000))
    run(conninfo, write(tmp_path, pre_data__001_a=TABLE + "\n" + rows))
    assert ask(conninfo, "SELECT count(*) FROM app.first") == 20_000


@pytest.mark.parametrize("schema", ['we"ird Schä; --', "User", "სქემა", "public"])
def test_any_schema_name_works(conninfo: str, tmp_path: Path, schema: str) -> None:
    write(tmp_path, pre_data__001_a='CREATE TABLE "Order" ("select" integer);')
    assert len(run(conninfo, tmp_path, schema=schema)) == 1
    assert run(conninfo, tmp_path, schema=schema) == []
    with psycopg.connect(conninfo) as connection:
        assert catalog.tables(connection, schema) == ["Order"]


def test_another_table_of_the_records_name_is_refused(conninfo: str, tmp_path: Path) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE SCHEMA app CREATE TABLE schema_migrations (version text)")
    with pytest.raises(Refused, match=r"another table of this name.*columns version"):
        run(conninfo, write(tmp_path, pre_data__001_a=TABLE))
    assert things(conninfo) == {"table app.schema_migrations"}


def test_the_guard_comes_first_in_each_transaction(conninfo: str, tmp_path: Path) -> None:
    calls = []

    def guard(connection: psycopg.Connection) -> None:
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        row = connection.execute("SELECT to_regclass('first')::text, pg_current_xact_id_if_assigned()").fetchone()
        calls.append(row)
        if len(calls) == 2:
            raise LeaseLost("another run took over")

    write(tmp_path, pre_data__001_a=TABLE, pre_data__002_b="CREATE TABLE b ();")
    with pytest.raises(LeaseLost):
        run(conninfo, tmp_path, guard=guard)
    assert calls == [(None, None), ("first", None)]
    assert records(conninfo) == ["pre_data/001_a.sql"]


def test_two_runners_at_once_apply_each_file_once(conninfo: str, tmp_path: Path) -> None:
    for number in range(1, 6):
        write(tmp_path, **{f"pre_data__{number:03}_t": f"SELECT pg_sleep(0.05); CREATE TABLE t{number} ();"})
    results: list[list[str]] = []
    threads = [threading.Thread(target=lambda: results.append(run(conninfo, tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert sorted(name for result in results for name in result) == [f"pre_data/{number:03}_t.sql" for number in range(1, 6)]


def test_runner_that_waits_too_long_is_unreachable(conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_runner, "_RUNNER_WAIT", "50ms")
    write(tmp_path, pre_data__001_a=TABLE)
    with psycopg.connect(conninfo) as other:
        sql_runner.hold_runner_lock(other, "app")
        with pytest.raises(Unreachable, match="another process applies SQL files") as caught:
            run(conninfo, tmp_path)
        assert caught.value.retry_helps
        assert run(conninfo, tmp_path, schema="another") == ["pre_data/001_a.sql"]


def test_lock_timeout_can_be_retried(conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_session, "LOCK_TIMEOUT", "50ms")
    write(tmp_path, pre_data__001_a=TABLE, post_data__001_k="ALTER TABLE first ADD PRIMARY KEY (id);")
    run(conninfo, tmp_path)
    with psycopg.connect(conninfo) as other:
        other.execute("SELECT FROM app.first")
        with pytest.raises(Unreachable, match=r"post_data/001_k\.sql: a lock was not granted in time"):
            run(conninfo, tmp_path, "post_data")
    assert run(conninfo, tmp_path, "post_data") == ["post_data/001_k.sql"]


def test_kill_in_the_middle_of_a_file_leaves_nothing_of_it(conninfo: str, tmp_path: Path) -> None:
    """The file's half is gone with the process, and the next attempt goes on after the last whole file."""
    write(
        tmp_path,
        pre_data__001_a=TABLE,
        pre_data__002_b="CREATE TABLE half (); SELECT pg_sleep(600);",
        pre_data__003_c="CREATE TABLE third ();",
    )
    code = (
        "import sys; from pathlib import Path; from include.cutover.target import sql_runner;"
        "sql_runner.apply(sys.argv[1], Path(sys.argv[2]), 'pre_data', schema='app', run_id='killed',"
        " application_name='killed')"
    )
    process = subprocess.Popen([sys.executable, "-c", code, conninfo, str(tmp_path)], cwd=ROOT)
    try:
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'killed' AND wait_event = 'PgSleep'"
        while ask(conninfo, sleeping) == 0:
            assert process.poll() is None
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    write(tmp_path, pre_data__002_b="CREATE TABLE half ();")
    assert run(conninfo, tmp_path) == ["pre_data/002_b.sql", "pre_data/003_c.sql"]
    assert ask(conninfo, sleeping) == 0
    with psycopg.connect(conninfo) as connection:
        assert [(item.name, item.run_id) for item in sql_runner.applied(connection, "app")] == [
            ("pre_data/001_a.sql", "killed"),
            ("pre_data/002_b.sql", "run-1"),
            ("pre_data/003_c.sql", "run-1"),
        ]


def test_a_server_that_ends_the_session_is_unreachable_and_leaves_nothing(conninfo: str, tmp_path: Path) -> None:
    write(tmp_path, pre_data__001_a="CREATE TABLE half (); SELECT pg_terminate_backend(pg_backend_pid());")
    with pytest.raises(Unreachable, match=r"pre_data/001_a\.sql: the connection to the target broke"):
        run(conninfo, tmp_path)
    assert ask(conninfo, "SELECT to_regnamespace('app')") is None


def test_unreachable_server_is_reported_without_the_password(tmp_path: Path) -> None:
    write(tmp_path, pre_data__001_a=TABLE)
    with pytest.raises(Unreachable, match="the target does not answer") as caught:
        run(f"host=127.0.0.1 port={free_port()} user=u password=S3cret dbname=d", tmp_path)
    assert "S3cret" not in str(caught.value)
    with pytest.raises(CannotCheck) as broken:
        run("password=S3cret ' dbname", tmp_path)
    assert "S3cret" not in str(broken.value)
    assert broken.value.__suppress_context__


def test_a_wrong_password_is_not_shown(conninfo: str, tmp_path: Path) -> None:
    wrong = psycopg.conninfo.make_conninfo(conninfo, password="S3cret")
    with pytest.raises(Unreachable, match="password authentication failed") as caught:
        run(wrong, write(tmp_path, pre_data__001_a=TABLE))
    assert "S3cret" not in str(caught.value)


def test_a_role_without_the_right_is_refused(conninfo: str, tmp_path: Path) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        role = f"r_{connection.info.dbname}"
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'p'").format(sql.Identifier(role)))
        try:
            with pytest.raises(Refused, match="may not do this"):
                run(
                    psycopg.conninfo.make_conninfo(conninfo, user=role, password="p"), write(tmp_path, pre_data__001_a=TABLE)
                )
            # To own the schema is enough: it need not have the right to make one.
            connection.execute(sql.SQL("CREATE SCHEMA app AUTHORIZATION {}").format(sql.Identifier(role)))
            assert run(psycopg.conninfo.make_conninfo(conninfo, user=role, password="p"), tmp_path)
        finally:
            connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_a_file_changed_while_the_others_are_applied_is_refused(conninfo: str, tmp_path: Path) -> None:
    write(tmp_path, pre_data__001_a=TABLE, pre_data__002_b="CREATE TABLE b ();")
    swapped: list[Path] = []

    def guard(_: psycopg.Connection) -> None:
        if not swapped:
            swapped.append(write(tmp_path, pre_data__002_b="CREATE TABLE other ();"))

    with pytest.raises(Refused, match=r"pre_data/002_b\.sql: the file was changed"):
        run(conninfo, tmp_path, guard=guard)
    assert records(conninfo) == ["pre_data/001_a.sql"]
