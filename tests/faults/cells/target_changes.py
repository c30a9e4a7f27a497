"""Somebody changes the target between the copy of a table and the first log-in of the application: never live with it."""

from __future__ import annotations

import time

import psycopg

from tests.faults.matrix import LIVE, RESTORED, cell
from tests.faults.trial import Trial

# A foreign key of the target, whichever stands first.
DROPPED_KEY = """DO $$ DECLARE found record; BEGIN
  SELECT conname, conrelid::regclass AS owner INTO STRICT found FROM pg_constraint
  WHERE contype = 'f' AND connamespace = 'public'::regnamespace ORDER BY conname LIMIT 1;
  EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.owner, found.conname);
END $$"""
EVERYBODY_OUT = """DO $$ DECLARE found record; BEGIN
  FOR found IN SELECT nspname FROM pg_namespace WHERE nspname LIKE 'public%' LOOP
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM PUBLIC', found.nspname);
  END LOOP;
END $$"""
USER = "UPDATE users SET full_name = 'somebody else' WHERE id = (SELECT min(id) FROM users)"
PAST_GUARD = (
    "SET session_replication_role = replica;"
    " SELECT set_config('cutover.run', run_id || ':' || epoch, false) FROM cutover.lease"
)

CHANGES = {
    "update": ("users are updated", USER),
    "update-past-guard": ("users are updated past every trigger and the guard", f"{PAST_GUARD}; {USER}"),
    "delete": ("cities are deleted", "DELETE FROM georgian_cities WHERE id > 3"),
    "delete-past-guard": (
        "cities are deleted past every trigger and the guard",
        f"{PAST_GUARD}; DELETE FROM georgian_cities WHERE id > 3",
    ),
    "insert": ("a row is inserted", "INSERT INTO ping_results (device_ip, device_name) VALUES ('192.0.2.1', 'somebody')"),
    "insert-past-guard": (
        "a row is inserted past every trigger and the guard",
        f"{PAST_GUARD}; INSERT INTO ping_results (device_ip, device_name) VALUES ('192.0.2.1', 'somebody')",
    ),
    "integer": ("a column becomes integer", "ALTER TABLE ping_results ALTER COLUMN id TYPE integer"),
    "foreign-key": ("a foreign key is dropped", DROPPED_KEY),
    "sequence": ("a sequence is set back", "SELECT setval(pg_get_serial_sequence('ping_results', 'id'), 5)"),
    "unlogged": ("a table becomes UNLOGGED", "ALTER TABLE ping_results SET UNLOGGED"),
    "row-security": ("row security is switched on", "ALTER TABLE users ENABLE ROW LEVEL SECURITY"),
    "grant": ("everybody gets rights", "GRANT ALL ON users TO PUBLIC"),
}
DIVERSIONS = {
    "rule": (
        "a rule ON INSERT DO INSTEAD NOTHING",
        "CREATE RULE swallow AS ON INSERT TO ping_results DO INSTEAD NOTHING",
    ),
    "trigger": (
        "a BEFORE trigger that returns NULL",
        "CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER swallow BEFORE INSERT OR UPDATE ON ping_results FOR EACH ROW EXECUTE FUNCTION public.swallow()",
    ),
    "policy": (
        "a policy that hides new rows",
        "CREATE POLICY hide ON ping_results USING (id < 0); ALTER TABLE ping_results ENABLE ROW LEVEL SECURITY",
    ),
}


def attempt(trial: Trial, statement: str) -> str:
    """Change the target as a superuser; return the refusal, empty where it was done."""
    try:
        with trial.target() as connection:
            connection.execute("SET lock_timeout = '20s'")
            connection.execute(statement.encode())
    except psycopg.errors.LockNotAvailable:
        raise
    except psycopg.Error as error:
        return str(error).splitlines()[0]
    return ""


def never_live(trial: Trial, run_id: str, refusal: str) -> None:
    """Wait for the run's end; it may be live only where the change was refused."""
    trial.wait(run_id)
    sealed = trial.evidence(run_id).sealed or {}
    trial.require(bool(refusal) or sealed.get("outcome") != "live", "live with the change, which was not refused")


def change_at_approve(name: str) -> None:
    """The gate stands open, the proof is done, and somebody changes the target. Then the lead says Go."""
    words, statement = CHANGES[name]

    @cell(22, f"target-change-{name}", f"{words} by a superuser; the lead says Go", "at approve", RESTORED, LIVE)
    def _(trial: Trial) -> None:
        run_id = trial.cutover("ask")
        trial.answer(run_id, "go_no_go")
        gate = trial.gate(run_id, "approve")
        refusal = attempt(trial, statement)
        trial.fault()
        trial.lead.answer("cutover_ward_ops", run_id, gate, "Go")
        never_live(trial, run_id, refusal)
        if name == "grant":
            with trial.target() as connection:  # the next cell's roles are compared with all schemas
                connection.execute(EVERYBODY_OUT)


for _name in CHANGES:
    change_at_approve(_name)


DAILY_WORK = (
    "DO $$ BEGIN IF to_regrole('reader') IS NULL THEN CREATE ROLE reader; END IF; END $$;"
    " GRANT CONNECT ON DATABASE {database} TO reader; GRANT SELECT ON users TO reader; GRANT pg_read_all_stats TO reader;"
    " ALTER DATABASE {database} SET log_min_duration_statement = 500;"
    " ALTER TABLE ping_results SET (autovacuum_vacuum_scale_factor = 0.01);"
    " CREATE INDEX of_an_administrator ON ping_results (device_name); ANALYZE users; COMMENT ON TABLE users IS 'people'"
)


@cell(22, "target-daily-work", "an administrator's daily work while the gate is open; the lead says Go", "at approve", LIVE)
def _(trial: Trial) -> None:
    run_id = trial.cutover("ask")
    trial.answer(run_id, "go_no_go")
    gate = trial.gate(run_id, "approve")
    with trial.target() as connection:
        statement = DAILY_WORK.replace("{database}", f'"{connection.info.dbname}"')
    trial.require(attempt(trial, statement) == "", "the work was refused")
    trial.fault()
    trial.lead.answer("cutover_ward_ops", run_id, gate, "Go")
    trial.wait(run_id)
    switched = trial.evidence(run_id).step("switch_configuration")
    warned = "\n".join(switched["warnings"]) if switched is not None else ""
    for part in ("of_an_administrator", "rights of reader on table users", "autovacuum", "log_min_duration_statement"):
        trial.require(part in warned, f"no warning names {part}")
    with trial.target() as connection:
        connection.execute(f'ALTER DATABASE "{connection.info.dbname}" RESET ALL'.encode())
        connection.execute("DROP OWNED BY reader; DROP ROLE reader")


@cell(22, "target-change-after-check", "a row is changed right after the check ended", "after check_tables", RESTORED, LIVE)
def _(trial: Trial) -> None:
    with trial.held_at("check_tables", "after") as run_id:
        refusal = attempt(trial, f"{PAST_GUARD}; {USER}")
    never_live(trial, run_id, refusal)


def divert(name: str) -> None:
    """Rows that the application writes would vanish; what was copied is equal."""
    words, statement = DIVERSIONS[name]

    @cell(22, f"target-{name}", words, "before the proof", RESTORED, LIVE)
    def _(trial: Trial) -> None:
        rules = [trial.hold(step, "end") for step in ("analyze_tables", "set_sequences")]
        run_id = trial.cutover()
        for rule in rules:
            trial.held(rule)
        time.sleep(0.2)
        refusal = attempt(trial, statement)
        trial.fault()
        for rule in rules:
            trial.release(rule)
        never_live(trial, run_id, refusal)


for _name in DIVERSIONS:
    divert(_name)
