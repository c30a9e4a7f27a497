"""The write proof on real tables: what it finds, what the plan may do itself, and that nothing stays behind."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from include.cutover.checks import Check
from include.cutover.errors import LeaseLost, Unreachable
from include.cutover.proof import write_rows, writes
from include.cutover.proof.writes import WriteTarget, write_checks
from include.cutover.target import ledger, sql_runner
from tests.support.target_schema import lost

OPERATIONS = ["writes_insert", "writes_update", "writes_delete"]
NOTHING = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "


@dataclass(frozen=True)
class Site:
    """A database of the pipeline's role, with the schema ``app``, and a role for the application."""

    superuser: str
    pipeline_role: str
    role: str
    sql_folder: Path

    @property
    def pipeline(self) -> str:
        return make_conninfo(self.superuser, user=self.pipeline_role, password="pipeline")

    def plan(self, text: str) -> None:
        """Apply this as the plan's SQL."""
        (self.sql_folder / "pre_data").mkdir(parents=True)
        (self.sql_folder / "pre_data" / "001_all.sql").write_text(text, encoding="utf-8")
        sql_runner.apply(self.pipeline, self.sql_folder, "pre_data", schema="app", run_id="run")

    def run(self, text: str, conninfo: str | None = None) -> None:
        """As the pipeline's role, which owns the tables."""
        with psycopg.connect(conninfo or self.pipeline, options="-c search_path=app") as connection:
            connection.execute(text.encode())

    def checks(self, tables: Sequence[str], *, role: bool = True, guard: ledger.Guard | None = None) -> dict[str, Check]:
        target = WriteTarget(self.pipeline, "app", self.sql_folder, self.role if role else None)
        before = self.content(tables)
        checks = {check.name: check for check in write_checks(target, tables, guard)}
        assert self.content(tables) == before, "the proof left something behind"
        assert list(checks) == OPERATIONS
        return checks

    def red(self, tables: Sequence[str], *, role: bool = True) -> dict[str, str]:
        checks = self.checks(tables, role=role)
        assert all(check.do for check in checks.values() if check.outcome != "passed")
        return {name.removeprefix("writes_"): check.found for name, check in checks.items() if check.outcome != "passed"}

    def content(self, tables: Sequence[str]) -> dict[str, list[object]]:
        """All rows with their places, and the rights to the tables."""
        with psycopg.connect(self.superuser, options="-c search_path=app") as connection:
            found: dict[str, list[object]] = {}
            for table in tables:
                there = connection.execute("SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", [f'app."{table}"'])
                row = there.fetchone()
                if row is not None and row[0] in ("r", "p"):
                    query = f'SELECT tableoid, ctid, t::text FROM app."{table}" AS t ORDER BY 1, 2'
                    found[table] = list(connection.execute(query.encode()).fetchall())
            # Those of another owner may go forward.
            query = "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'app' AND sequenceowner = %s"
            found["sequences"] = list(connection.execute(query, [self.pipeline_role]).fetchall())
            rights = "SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'app'::regnamespace ORDER BY 1"
            found[""] = list(connection.execute(rights).fetchall())
            return found


@pytest.fixture
def site(conninfo: str, tmp_path: Path) -> Iterator[Site]:
    mark = secrets.token_hex(4)
    made = Site(conninfo, f"pipeline {mark}", f"application {mark}", tmp_path / "sql")
    database = conninfo_to_dict(conninfo)["dbname"]
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in (
            f"CREATE ROLE \"{made.pipeline_role}\" LOGIN CREATEROLE PASSWORD 'pipeline'",
            f'CREATE ROLE "{made.role}"',
            f'GRANT "{made.role}" TO "{made.pipeline_role}" WITH ADMIN OPTION',
            f'ALTER DATABASE "{database}" OWNER TO "{made.pipeline_role}"',
        ):
            connection.execute(statement.encode())
    try:
        yield made
    finally:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            for statement in (
                f'REASSIGN OWNED BY "{made.pipeline_role}" TO postgres',
                f'DROP OWNED BY "{made.role}"',
                f'DROP OWNED BY "{made.pipeline_role}"',
                f'DROP ROLE "{made.pipeline_role}", "{made.role}"',
            ):
                connection.execute(statement.encode())


SHOP = """
    CREATE TABLE devices (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name text NOT NULL, room integer);
    INSERT INTO devices (name, room) VALUES ('one', 1), ('two', 2), ('three', NULL);
    CREATE TABLE other (LIKE devices);
"""


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("CREATE RULE r AS ON INSERT TO devices DO INSTEAD NOTHING", {"insert": "INSERT RETURNING"}),
        ("CREATE RULE r AS ON UPDATE TO devices DO INSTEAD NOTHING", {"update": "UPDATE RETURNING"}),
        ("CREATE RULE r AS ON DELETE TO devices DO INSTEAD NOTHING", {"delete": "DELETE RETURNING"}),
        (
            "CREATE RULE r AS ON INSERT TO devices DO INSTEAD INSERT INTO other VALUES (NEW.*)",
            {"insert": "INSERT RETURNING"},
        ),
        (
            "CREATE RULE r AS ON INSERT TO devices DO INSTEAD INSERT INTO other VALUES (NEW.*) RETURNING other.*",
            {"insert": ""},
        ),
        ("CREATE RULE r AS ON INSERT TO devices WHERE NEW.id > 0 DO INSTEAD NOTHING", {"insert": "INSERT RETURNING"}),
        (
            NOTHING + "CREATE TRIGGER t BEFORE INSERT ON devices FOR EACH ROW EXECUTE FUNCTION f()",
            {"insert": "devices: no row arrived"},
        ),
        (
            NOTHING + "CREATE TRIGGER t BEFORE UPDATE OR DELETE ON devices FOR EACH ROW EXECUTE FUNCTION f()",
            {"update": "devices: no row was changed", "delete": "devices: no row was deleted"},
        ),
        (
            "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.room := 7; RETURN NEW; END';"
            "CREATE TRIGGER t BEFORE INSERT ON devices FOR EACH ROW EXECUTE FUNCTION g()",
            {"insert": "devices: another value than was written in room"},
        ),
        (
            "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';"
            "CREATE TRIGGER t BEFORE UPDATE ON devices FOR EACH ROW EXECUTE FUNCTION g()",
            {"update": "devices: another value than was written in name"},
        ),
        (
            "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN DELETE FROM devices WHERE id = NEW.id; RETURN NULL; END';"
            "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON devices DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION g()",
            {"insert": "devices: the row cannot be read back"},
        ),
        (
            "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''closed''; END';"
            "CREATE TRIGGER t BEFORE DELETE ON devices EXECUTE FUNCTION g()",
            {"delete": "devices: closed"},
        ),
        ("ALTER TABLE devices ENABLE ROW LEVEL SECURITY", {"insert": "policy", "update": "no row", "delete": "no row"}),
        (
            "ALTER TABLE devices ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
            " CREATE POLICY p ON devices USING (id > 5) WITH CHECK (true)",
            {"insert": "policy"},
        ),
        (
            "ALTER TABLE devices ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON devices FOR SELECT USING (true);"
            " CREATE POLICY q ON devices FOR INSERT WITH CHECK (true); CREATE POLICY r ON devices FOR DELETE USING (true)",
            {"update": "devices: no row was changed"},
        ),
        ("ALTER TABLE devices RENAME TO old; CREATE VIEW devices AS SELECT * FROM old", dict.fromkeys(
            ("insert", "update", "delete"), "devices: there is no such table")),
    ],
)  # fmt: skip
def test_a_write_that_does_something_else_is_red_and_named(site: Site, planted: str, found: dict[str, str]) -> None:
    site.plan(SHOP)
    assert site.red(["devices", "other"]) == {}
    site.run(planted)
    red = site.red(["devices", "other"])
    assert set(red) == set(found) or "FORCE" in planted, red
    for operation, text in found.items():
        assert "devices" in red[operation] and text in red[operation], red
        assert "other:" not in red[operation]


def test_a_missing_right_is_red(site: Site) -> None:
    site.plan(SHOP)
    with psycopg.connect(site.superuser) as connection:  # a table of another owner gets no rights at go-live
        connection.execute("ALTER TABLE app.devices OWNER TO postgres")
        connection.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON app.devices TO "{site.pipeline_role}"'.encode())
        connection.execute(f'GRANT SELECT, INSERT, UPDATE ON app.devices TO "{site.role}"'.encode())
    red = site.red(["devices"])
    assert list(red) == ["delete"] and "permission denied for table devices" in red["delete"]


def test_without_the_right_to_act_as_the_role_the_pipeline_writes_and_the_check_says_so(site: Site) -> None:
    site.plan(SHOP)
    with psycopg.connect(site.superuser) as connection:
        connection.execute(f'REVOKE "{site.role}" FROM "{site.pipeline_role}"'.encode())
    checks = site.checks(["devices"])
    assert {check.outcome for check in checks.values()} == {"passed"}
    assert f"the pipeline's role, which may not act as {site.role}" in checks["writes_insert"].expected
    with psycopg.connect(site.superuser) as connection:
        connection.execute("ALTER TABLE app.devices OWNER TO postgres")
        connection.execute(f'GRANT ALL ON app.devices TO "{site.pipeline_role}"'.encode())
    red = site.red(["devices"])
    assert set(red) == {"insert", "update", "delete"} and "has no right to insert" in red["insert"]


def test_without_an_application_the_pipeline_writes_and_the_check_says_so(site: Site) -> None:
    site.plan(SHOP)
    checks = site.checks(["devices"], role=False)
    assert {check.outcome for check in checks.values()} == {"passed"}
    assert "the plan moves no application" in checks["writes_delete"].expected
    site.run("CREATE RULE r AS ON INSERT TO devices DO INSTEAD NOTHING")
    assert set(site.red(["devices"], role=False)) == {"insert"}


TABLES = {
    "referenced": "CREATE TABLE t (id integer PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'a'), (2, 'b');"
    " CREATE TABLE c (id integer REFERENCES t ON DELETE CASCADE); INSERT INTO c VALUES (1), (2)",
    "referenced, and one row is free": "CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1), (2);"
    " CREATE TABLE c (id integer REFERENCES t ON DELETE CASCADE); INSERT INTO c VALUES (2)",
    "referenced without a free key": "CREATE TABLE t (ok boolean PRIMARY KEY); INSERT INTO t VALUES (true), (false);"
    " CREATE TABLE c (ok boolean REFERENCES t); INSERT INTO c VALUES (true), (false)",
    "set to NULL by a delete": "CREATE TABLE t (ok boolean PRIMARY KEY); INSERT INTO t VALUES (true), (false);"
    " CREATE TABLE c (ok boolean REFERENCES t ON DELETE SET NULL); INSERT INTO c VALUES (true), (false)",
    "its own parent": "CREATE TABLE t (id integer PRIMARY KEY, up integer REFERENCES t ON DELETE CASCADE);"
    " INSERT INTO t VALUES (1, NULL), (2, 1), (3, 3)",
    "its own parent, all": "CREATE TABLE t (id integer PRIMARY KEY, up integer NOT NULL REFERENCES t);"
    " INSERT INTO t VALUES (1, 1)",
    "its own parent, empty": "CREATE TABLE t (id integer PRIMARY KEY, up integer NOT NULL REFERENCES t)",
    "in a circle": "CREATE TABLE c (id integer PRIMARY KEY, t integer NOT NULL); CREATE TABLE t (id integer PRIMARY KEY,"
    " c integer NOT NULL REFERENCES c DEFERRABLE INITIALLY DEFERRED); INSERT INTO c VALUES (1, 1);"
    " INSERT INTO t VALUES (1, 1);"
    " ALTER TABLE c ADD FOREIGN KEY (t) REFERENCES t DEFERRABLE INITIALLY DEFERRED",
    "empty": "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text NOT NULL, b uuid NOT NULL UNIQUE,"
    " c timestamptz NOT NULL, d jsonb NOT NULL, e numeric(9,6) NOT NULL, f boolean NOT NULL, g integer[] NOT NULL,"
    " h bytea NOT NULL)",
    "empty with a parent": "CREATE TABLE p (id integer PRIMARY KEY); INSERT INTO p VALUES (5);"
    " CREATE TABLE t (id integer PRIMARY KEY, p integer NOT NULL REFERENCES p)",
    "empty with an empty parent": "CREATE TABLE p (id integer PRIMARY KEY);"
    " CREATE TABLE t (id integer PRIMARY KEY, p integer NOT NULL REFERENCES p)",
    "empty with a check": "CREATE TABLE t (id integer PRIMARY KEY, code text NOT NULL CHECK (code ~ '^[A-Z]{3}-[0-9]{4}$'))",
    "empty of a strange type": "CREATE TABLE t (id integer PRIMARY KEY, line lseg NOT NULL, at tsvector NOT NULL)",
    "empty with a domain": "CREATE DOMAIN mail AS varchar(30) NOT NULL CHECK (VALUE LIKE '%@%'); CREATE TABLE t (mail mail)",
    "empty with an enum": "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TABLE t (mood mood NOT NULL, moods mood[])",
    "without a key": "CREATE TABLE t (a text, b json, c point); INSERT INTO t VALUES ('x', '{}', '(1,1)'), ('x',"
    " '{}', '(1,1)')",
    "without columns": "CREATE TABLE t ()",
    "of one identity": "CREATE TABLE t (id integer GENERATED ALWAYS AS IDENTITY); INSERT INTO t DEFAULT VALUES",
    "generated": "CREATE TABLE t (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text, b text GENERATED ALWAYS AS"
    " (a || 'x') STORED, c integer GENERATED ALWAYS AS (length(a)) VIRTUAL); INSERT INTO t (a) VALUES ('x'), (NULL)",
    "partitioned": "CREATE TABLE t (id integer, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);"
    " CREATE TABLE t1 PARTITION OF t FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');"
    " CREATE TABLE t2 (at date NOT NULL, dropped text, id integer NOT NULL); ALTER TABLE t2 DROP dropped;"
    " ALTER TABLE t ATTACH PARTITION"
    " t2 FOR VALUES FROM ('2025-01-01') TO ('2026-01-01'); INSERT INTO t VALUES (1, '2024-05-05'), (2, '2025-05-05')",
    "partitioned and empty": "CREATE TABLE t (id integer PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE t1 PARTITION OF t"
    " FOR VALUES IN (100)",
    "inherited": "CREATE TABLE t (id integer); CREATE TABLE t1 () INHERITS (t); INSERT INTO t1 VALUES (1)",
    "unique in many ways": "CREATE TABLE t (a integer, b text, c date, UNIQUE (a, b),"
    " EXCLUDE USING gist (daterange(c, c, '[]')"
    " WITH &&)); CREATE UNIQUE INDEX ON t (lower(b)) WHERE a > 0; INSERT INTO t VALUES (1, 'X', '2024-01-01')",
    "deferrable": "CREATE TABLE t (id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED); INSERT INTO t VALUES (1), (2)",
    "odd names": 'CREATE TABLE "t" ("a %s {b}" text, "ctid 2" "char", "select" char(3));'
    ' INSERT INTO t VALUES (\'%s {}\', \'c\', \'a\')',
    "numbers": "CREATE TABLE t (a float8, b real, c numeric, d interval, e money); INSERT INTO t VALUES"
    " (0.1, 'NaN', 1.10, '1 mon 2 days', 3), ('-Infinity', -0.0, 'NaN', NULL, NULL)",
    "bound everywhere": "CREATE TABLE t (a integer PRIMARY KEY CHECK (a > 0), b varchar(1) UNIQUE);"
    " INSERT INTO t VALUES (1, 'x')",
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table_is_proved_and_left_as_it_was(site: Site, kind: str) -> None:
    site.plan(TABLES[kind])
    site.run("ANALYZE")
    tables = [t for t in ("t", "c", "p") if f"TABLE {t} " in TABLES[kind] or f'TABLE "{t}"' in TABLES[kind]]
    assert site.red(tables) == {}
    for operation in ("INSERT", "UPDATE", "DELETE"):
        site.run(f"CREATE RULE gone AS ON {operation} TO t DO INSTEAD NOTHING")
        if kind not in ("without columns", "of one identity") or operation != "UPDATE":
            assert set(site.red(tables)) == {operation.lower()}
        site.run("DROP RULE gone ON t")


def test_a_key_that_the_sequence_gave_already_is_red(site: Site) -> None:
    site.plan(SHOP)
    site.run("ALTER TABLE devices ALTER id RESTART WITH 2")
    red = site.red(["devices"])
    assert set(red) == {"insert"} and "duplicate key value violates unique constraint" in red["insert"]


def test_a_sequence_that_the_role_may_not_use_is_red(site: Site) -> None:
    site.plan(
        "CREATE SEQUENCE s; CREATE TABLE t (id integer PRIMARY KEY DEFAULT nextval('s'), a integer);"
        "INSERT INTO t (a) VALUES (1)"
    )
    assert site.red(["t"]) == {}
    with psycopg.connect(site.superuser) as connection:
        connection.execute("ALTER SEQUENCE app.s OWNER TO postgres")
    red = site.red(["t"])
    assert set(red) == {"insert"} and "permission denied for sequence s" in red["insert"]


def test_a_default_that_the_role_may_not_compute_is_red(site: Site) -> None:
    site.plan(
        "CREATE FUNCTION key() RETURNS integer LANGUAGE sql AS 'SELECT 7'; REVOKE EXECUTE ON FUNCTION key() FROM PUBLIC;"
        "CREATE TABLE t (id integer PRIMARY KEY DEFAULT key()); INSERT INTO t VALUES (1)"
    )
    red = site.red(["t"])
    assert set(red) == {"insert"} and "permission denied for function key" in red["insert"]


def test_a_table_for_which_no_row_can_be_made_up_is_unknown_and_red(site: Site) -> None:
    site.plan("CREATE DOMAIN code AS text NOT NULL CHECK (VALUE ~ '^[A-Z]{3}-[0-9]{4}$'); CREATE TABLE t (code code)")
    check = site.checks(["t"])["writes_insert"]
    assert check.outcome == "unknown"
    assert check.found == "t: no row could be made up: no valid value is known for code"


def test_no_other_row_is_touched_not_even_for_a_moment(site: Site) -> None:
    """Cascades would run in the downtime, and triggers of theirs."""
    site.plan(
        "CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 500);"
        "CREATE TABLE c (id integer REFERENCES t ON DELETE CASCADE); INSERT INTO c SELECT generate_series(1, 500);"
        "CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''a row of c was deleted''; END';"
        "CREATE TRIGGER loud BEFORE DELETE ON c FOR EACH ROW EXECUTE FUNCTION loud()"
    )
    assert site.red(["t"]) == {}


def test_the_plans_own_triggers_rules_and_policies_may_change_what_a_write_does(site: Site) -> None:
    site.plan(
        SHOP + NOTHING + "CREATE TRIGGER kept BEFORE DELETE ON devices FOR EACH ROW EXECUTE FUNCTION f();"
        "CREATE FUNCTION stamped() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.room := 99; RETURN NEW; END';"
        "CREATE TRIGGER stamped BEFORE UPDATE ON devices FOR EACH ROW EXECUTE FUNCTION stamped();"
        "CREATE RULE away AS ON INSERT TO devices DO INSTEAD INSERT INTO other VALUES (NEW.*);"
        "ALTER TABLE other ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON other USING (current_setting('app.x',"
        " true) = 'x')"
    )
    checks = site.checks(["devices", "other"])
    assert {check.outcome for check in checks.values()} == {"passed"}
    assert "by the plan's own trigger kept" in checks["writes_delete"].found
    assert "by the plan's own rule away" in checks["writes_insert"].found
    assert "by the plan's own policy own" in checks["writes_insert"].found
    # One that only has the name of the plan's is not the plan's.
    site.run("DROP TRIGGER kept ON devices; CREATE TRIGGER kept BEFORE DELETE ON devices EXECUTE FUNCTION f()")
    site.run(
        NOTHING.replace("NULL", "OLD").replace("f()", "g()") + "CREATE RULE kept AS ON DELETE TO devices DO INSTEAD NOTHING"
    )
    assert set(site.red(["devices", "other"])) == {"delete"}


def test_a_trigger_of_the_plan_excuses_no_missing_right(site: Site) -> None:
    site.plan(
        SHOP + "CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';"
        "CREATE TRIGGER same BEFORE DELETE ON devices FOR EACH ROW EXECUTE FUNCTION same()"
    )
    with psycopg.connect(site.superuser) as connection:
        connection.execute("ALTER TABLE app.devices OWNER TO postgres")
        connection.execute(f'GRANT ALL ON app.devices TO "{site.pipeline_role}"'.encode())
    assert set(site.red(["devices"])) == {"insert", "update", "delete"}


def test_a_publication_that_keeps_rows_from_being_changed_is_red(site: Site) -> None:
    site.plan("CREATE TABLE log (what text); INSERT INTO log VALUES ('x')")
    site.run("CREATE PUBLICATION everything FOR TABLE log")
    red = site.red(["log"])
    assert set(red) == {"update", "delete"} and "replica identity" in red["update"]


def test_a_lock_of_another_session_is_an_error_that_names_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.plan(SHOP)
    monkeypatch.setattr("include.cutover.target.session.LOCK_TIMEOUT", "200ms")
    with psycopg.connect(site.pipeline, application_name="an old psql") as holder:
        holder.execute("LOCK TABLE app.devices IN SHARE MODE")
        with pytest.raises(Unreachable, match="the write proof waited in vain") as caught:
            site.checks(["devices"])
    assert "an old psql" in caught.value.found and "ShareLock on devices" in caught.value.found
    assert site.red(["devices"]) == {}


def test_the_guard_is_called_first(site: Site) -> None:
    site.plan(SHOP)
    with pytest.raises(LeaseLost):
        site.checks(["devices"], guard=lost)


def test_no_value_of_a_row_is_in_a_check(site: Site) -> None:
    site.plan(
        "CREATE TABLE t (id integer PRIMARY KEY, secret text CHECK (length(secret) > 0)); INSERT INTO t VALUES (1,"
        " 'hunter2')"
    )
    site.run(
        "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.id := NEW.secret; RETURN NEW; END';"
        "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION g()"
    )
    checks = site.checks(["t"])
    assert checks["writes_insert"].outcome == "failed" and "hunter2" not in str(checks)


def test_a_deletion_that_takes_too_long_is_a_note(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where rows that refer to the deleted one are looked for in a large table without an index."""
    site.plan(
        "CREATE TABLE p (id integer PRIMARY KEY); CREATE TABLE c (id integer PRIMARY KEY, p integer NOT NULL REFERENCES p);"
        " INSERT INTO p VALUES (1); INSERT INTO c VALUES (1, 1);"
        " CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END';"
        " CREATE TRIGGER slow AFTER DELETE ON p FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    monkeypatch.setattr(writes, "_STATEMENT_TIMEOUT", "3s")
    checks = site.checks(["p"])
    assert {check.outcome for check in checks.values()} == {"passed"}
    assert checks["writes_delete"].found == "p: accepted; to delete a row takes longer than the time limit"


def test_a_number_that_is_not_found_soon_is_taken_from_a_row(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.plan(
        "CREATE TABLE t (a integer, b integer, PRIMARY KEY (a, b)); CREATE TABLE c (a integer, b integer,"
        " FOREIGN KEY (a, b) REFERENCES t); INSERT INTO t VALUES (1, 7); INSERT INTO c VALUES (1, 7)"
    )
    with psycopg.connect(site.pipeline, options="-c search_path=app") as connection:
        table = write_rows.shape(connection, "app", "t")
        assert table is not None
        assert {column.name: column.leading for column in table.columns} == {"a": True, "b": False}
        like = write_rows.any_row(connection, table)
        assert write_rows.made_up(connection, table, like).values == {"a": "2", "b": "7"}
        with psycopg.connect(site.superuser) as other:
            other.execute("LOCK TABLE app.t IN ACCESS EXCLUSIVE MODE")
            connection.rollback()
            monkeypatch.setattr(write_rows, "_PICK_TIMEOUT", "50ms")
            assert write_rows.made_up(connection, table, like).values == {"a": "1", "b": "7"}
    assert site.red(["t", "c"]) == {}
