"""Checks of rights in the target: the pipeline's to schema and tables, and those that the fence needs."""

from __future__ import annotations

from collections.abc import Sequence

from include.cutover.preflight.answers import Answer, ExaminedTarget
from include.cutover.target import fence, write_conditions
from include.cutover.target.wording import quoted

_NO_APPLICATION = Answer("passed", found="the plan moves no application")


def may_create_schema(target: ExaminedTarget) -> Answer:
    """Check the right to create schemas."""
    role, database, may = target.row(
        "SELECT current_user, current_database(), has_database_privilege(current_database(), 'CREATE')"
    )
    do = f"GRANT CREATE ON DATABASE {quoted(database)} TO {quoted(role)};"
    return Answer.when(may, f"CREATE on the database {database}", "granted" if may else "not granted", do)


def may_create_tables(target: ExaminedTarget) -> Answer:
    """Check the right to create tables in the schema."""
    rights = _schema_rights(target)
    expected = f"CREATE on the schema {target.schema}"
    if rights is None:  # the first migration makes it, with the right of may_create_schema
        return Answer("passed", expected, "there is no such schema yet")
    role, _, may, _ = rights
    do = f"GRANT USAGE, CREATE ON SCHEMA {quoted(target.schema)} TO {quoted(role)};"
    return Answer.when(may, expected, "granted" if may else "not granted", do)


def may_rename_schema(target: ExaminedTarget) -> Answer:
    """Check the right to set the schema aside at a rollback."""
    rights = _schema_rights(target)
    if rights is None:
        return Answer("passed", "the schema's owner", "there is no such schema yet; the role will own it")
    role, owner, _, owns = rights
    (may_create,) = target.row("SELECT has_database_privilege(current_database(), 'CREATE')")
    found = f"the schema {target.schema} belongs to {owner}" + ("" if may_create else "; no CREATE on the database")
    do = (
        f"ALTER SCHEMA {quoted(target.schema)} OWNER TO {quoted(role)}; without it a rollback cannot set the target's"
        " data aside, and the next cutover finds it in the way."
    )
    return Answer.when(owns and may_create, f"{role} owns the schema and may create another", found, do)


def application_role(target: ExaminedTarget) -> Answer:
    """Check that the application's role exists and may log in."""
    if target.application_role is None:
        return _NO_APPLICATION
    # Where the fence is the log-in, the role has none until go-live: an earlier rollback took it.
    wanted = ["CONNECT"] if target.plan.target_fence == "login" else ["CONNECT", "LOGIN"]
    expected = f"the role {target.application_role} with {' and '.join(wanted)}"
    row = target.row(
        "SELECT has_database_privilege(oid, current_database(), 'CONNECT'), rolcanlogin FROM pg_roles WHERE rolname = %s",
        target.application_role,
    )
    name = quoted(target.application_role)
    if not row:
        return Answer("failed", expected, "there is no such role", f"CREATE ROLE {name} LOGIN with its password.")
    lacks = [right for right, has in zip(wanted, row, strict=False) if not has]
    (database,) = target.row("SELECT current_database()")
    commands = {
        "CONNECT": f"GRANT CONNECT ON DATABASE {quoted(database)} TO {name};",
        "LOGIN": f"ALTER ROLE {name} LOGIN;",
    }
    do = " ".join(commands[right] for right in lacks)
    return Answer.when(not lacks, expected, f"without {' and '.join(lacks)}" if lacks else "it has these rights", do)


def may_shut_out(target: ExaminedTarget) -> Answer:
    """Check that the fence can be raised: the change is tried and rolled back."""
    if target.application_role is None:
        return _NO_APPLICATION
    how = {"login": "log-in and rights", "privileges": "rights"}[target.plan.target_fence]
    expected = f"{target.application_role} without {how} until go-live, and from the first step of a rollback on"
    if not target.row("SELECT true FROM pg_roles WHERE rolname = %s", target.application_role):
        return Answer("unknown", expected, "there is no such role", "Create the application's role first.")
    return _faults(
        expected,
        fence.faults(target.connection, target.schema, target.application_role, target.plan.target_fence),
        "tried, and rolled back",
    )


def open_doors(target: ExaminedTarget) -> Answer:
    """Check other ways to write as the application's role."""
    if target.application_role is None:
        return _NO_APPLICATION
    (sessions,) = target.row(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND datname = current_database()",
        target.application_role,
    )
    return _faults(
        f"no other role acts as {target.application_role}, and it has no prepared transaction",
        fence.open_doors(target.connection, target.application_role, target.plan.target_fence),
        f"{sessions} open sessions of it, which the cutover will end" if sessions else "nothing",
    )


def writes_unchanged(target: ExaminedTarget) -> Answer:
    """Check settings, other tables of the same names and event triggers that would change what a write does."""
    checks = write_conditions.lasting_checks(
        target.connection, target.schema, list(target.plan.tables), target.application_role
    )
    bad = [check for check in checks if check.outcome != "passed"]
    found = "; ".join(check.found for check in bad or checks)
    return Answer.when(not bad, "", found, " ".join(check.do for check in bad))


def may_end_sessions(target: ExaminedTarget) -> Answer:
    """Check the right to end the application's sessions."""
    if target.application_role is None:
        return _NO_APPLICATION
    expected = f"the right to end sessions of {target.application_role}"
    row = target.row(
        "SELECT current_user, me.rolsuper, app.rolsuper, pg_has_role(app.oid, 'USAGE'),"
        " pg_has_role('pg_signal_backend', 'USAGE')"
        " FROM pg_roles me, pg_roles app WHERE me.rolname = current_user AND app.rolname = %s",
        target.application_role,
    )
    if not row:
        return Answer("unknown", expected, "there is no such role", "Create the application's role first.")
    me, superuser, application_is_superuser, member, signaller = row
    may = superuser or (not application_is_superuser and (member or signaller))
    lost = "without this right, the application could write to the target after a rollback."
    if application_is_superuser and not superuser:
        do = f"Take SUPERUSER from {quoted(target.application_role)}: only a superuser may end its sessions; {lost}"
    else:
        do = f"GRANT {quoted(target.application_role)} TO {quoted(me)}; {lost}"
    return Answer.when(may, expected, f"{me} has it" if may else f"{me} does not have it", do)


def _schema_rights(target: ExaminedTarget) -> tuple[str, str, bool, bool] | None:
    """Return the role, the schema's owner, and whether the role may create in it and acts as its owner."""
    row = target.row(
        "SELECT current_user, pg_get_userbyid(nspowner), has_schema_privilege(oid, 'CREATE'),"
        " pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = %s",
        target.schema,
    )
    return None if not row else (row[0], row[1], row[2], row[3])


def _faults(expected: str, faults: Sequence[fence.Fault], otherwise: str) -> Answer:
    found = "; ".join(fault.found for fault in faults) or otherwise
    return Answer.when(not faults, expected, found, " ".join(fault.do for fault in faults))
