"""Checks of the roles in the target: each has the rights of the plan, and no others.

They read the catalog only; no role's password is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from include.cutover.checks import Check, Outcome
from include.cutover.plan.model import Plan
from include.cutover.target import catalog, ledger
from include.cutover.target.access_statements import (
    OF_EXTENSION,
    VIEWS_OVER_TABLES,
    object_statements,
    required,
    restricted,
    role_statements,
    secret_columns,
)
from include.cutover.target.session import session
from include.cutover.target.wording import listed, quoted

_WRITES = "INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
_OTHER_SCHEMAS = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
_ACTING = "WITH acting AS (SELECT oid FROM pg_roles r WHERE pg_has_role(%(role)s, r.oid, 'MEMBER'))"


def examine(conninfo: str, plan: Plan, *, as_pipeline: bool = False) -> list[Check]:
    """Compare roles and rights in the target with the plan.

    Args:
        conninfo: Of any role that may read the catalog.
        plan: Names the roles.
        as_pipeline: ``conninfo`` is the pipeline's own; check that too.

    Raises:
        Unreachable: When the server does not answer.
    """
    with session(conninfo, plan.target_schema) as connection:
        own = [pipeline_check(connection, plan)] if as_pipeline else []
        return [*own, *role_checks(connection, plan), *object_checks(connection, plan)]


def pipeline_check(connection: psycopg.Connection, plan: Plan) -> Check:
    """Check that this session has the pipeline's role: objects of another role are not handed to the owner."""
    expected = required(plan).pipeline
    (me,) = connection.execute("SELECT current_user::text").fetchone() or ("",)
    return Check(
        "access_pipeline",
        "The pipeline logs in as its own role",
        "passed" if me == expected else "failed",
        f"role {expected}",
        f"role {me}",
        "" if me == expected else f"Log in as {expected}, or correct access.pipeline in the plan.",
    )


def role_checks(connection: psycopg.Connection, plan: Plan) -> list[Check]:
    """Check that the roles exist, with the attributes and memberships that they need and no others."""
    access = required(plan)
    statements = role_statements(connection, plan)
    found = [
        Check(
            "access_roles",
            "Roles, memberships, database and schema are as the plan has them",
            "failed" if statements else "passed",
            "nothing to change",
            f"{len(statements)} statements missing, first: {statements[0]}" if statements else "nothing to change",
            f"As an administrator: python -m include.cutover access apply --plan {plan.name} --target URL ('sql' shows it)."
            if statements
            else "",
        )
    ]
    for role in restricted(access):
        acts = [name for name in _acts_as(connection, role) if name != role]
        dangerous = _values(
            connection,
            "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s) AND (rolsuper OR rolcreaterole OR rolcreatedb"
            " OR rolreplication OR rolbypassrls OR rolname = ANY(%s) OR rolname ~ '^pg_(read|write|execute)_'"
            " OR oid = (SELECT datdba FROM pg_database WHERE datname = current_database())) ORDER BY 1",
            acts,
            [name for name in (access.pipeline, access.owner, access.application) if name is not None],
        )
        do = " ".join(f"REVOKE {quoted(name)} FROM {quoted(role)};" for name in dangerous)
        found.append(_none("access_members", f"{role} can take no role with more rights", dangerous, do, role))
    return found


def object_checks(connection: psycopg.Connection, plan: Plan) -> list[Check]:
    """Check the rights of application and reporting to the objects of the database, wherever these come from."""
    access, schema = required(plan), plan.target_schema
    apply = (
        f"python -m include.cutover access apply --plan {plan.name} --target URL; rights that remain come from elsewhere:"
        " PUBLIC?"
    )
    there = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    found = []
    if access.application in there:
        found += _application(connection, access.application, schema, apply)
    if access.reporting is not None and access.reporting in there:
        found += _reporting(connection, plan, access.reporting, apply)
    return found


def _application(connection: psycopg.Connection, role: str, schema: str, apply: str) -> list[Check]:
    ddl = _values(
        connection,
        f"""
        {_ACTING}
        SELECT 'CREATE on the schema ' || n.nspname FROM pg_namespace n
        WHERE {_OTHER_SCHEMAS} AND EXISTS (SELECT FROM acting a WHERE has_schema_privilege(a.oid, n.oid, 'CREATE'))
        UNION ALL
        SELECT 'CREATE on the database ' || datname FROM pg_database d WHERE datname = current_database()
          AND EXISTS (SELECT FROM acting a WHERE has_database_privilege(a.oid, d.oid, 'CREATE'))
        UNION ALL
        SELECT 'owner of ' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %(schema)s AND c.relowner IN (SELECT oid FROM acting)
        UNION ALL
        SELECT 'TRUNCATE, REFERENCES or TRIGGER on ' || c.relname FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p')
          AND EXISTS (SELECT FROM acting a WHERE has_table_privilege(a.oid, c.oid, 'TRUNCATE, REFERENCES, TRIGGER'))
        ORDER BY 1
        """,  # noqa: S608  # constants
        role=role,
        schema=schema,
    )
    return [
        _none("access_application_ddl", f"{role} changes no table, only rows", ddl, apply, role),
        _none("access_application_ledger", f"{role} does not see the ledger", _ledger_rights(connection, role), apply, role),
    ]


def _reporting(connection: psycopg.Connection, plan: Plan, role: str, apply: str) -> list[Check]:
    ledger_rights = _ledger_rights(connection, role)
    found = [
        _none("access_reporting_writes", f"{role} cannot write", _written(connection, role), apply, role),
        _none("access_reporting_secrets", f"{role} reads no secret column", _secrets(connection, plan, role), apply, role),
        _none("access_reporting_ledger", f"{role} does not see the ledger", ledger_rights, apply, role),
    ]
    missing = object_statements(connection, plan)
    made = set(plan.tables) <= set(catalog.tables(connection, plan.target_schema))
    expected = "rights to every table, also to those that will be made"
    rights = f"{len(missing)} statements missing, first: {missing[0]}" if missing else "as the plan has it"
    found.append(
        Check(
            "access_reporting_reads",
            f"{role} reads every table but its secret columns",
            "failed" if missing else "passed",
            expected,
            rights if made else "the tables do not exist yet; the cutover grants the rights",
            apply if missing else "",
            role,
        )
    )
    if not made:
        do = "ALTER DEFAULT PRIVILEGES … REVOKE ALL ON TABLES; the cutover gives the rights when the tables are loaded."
        early = _default_rights(connection, plan.target_schema, role)
        found.append(_none("access_reporting_early", f"{role} reads nothing while the tables are loaded", early, do, role))
    return found


def _written(connection: psycopg.Connection, role: str) -> list[str]:
    """Return what the role could write to or create in, in any schema."""
    return _values(
        connection,
        f"""{_ACTING}
        SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_OTHER_SCHEMAS} AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND EXISTS (SELECT FROM acting a
            WHERE has_table_privilege(a.oid, c.oid, '{_WRITES}')
               OR has_any_column_privilege(a.oid, c.oid, 'INSERT, UPDATE, REFERENCES'))
        UNION ALL
        SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_OTHER_SCHEMAS} AND c.relkind = 'S'
          AND EXISTS (SELECT FROM acting a WHERE has_sequence_privilege(a.oid, c.oid, 'USAGE, UPDATE'))
        UNION ALL
        SELECT 'CREATE on the schema ' || n.nspname FROM pg_namespace n
        WHERE {_OTHER_SCHEMAS} AND EXISTS (SELECT FROM acting a WHERE has_schema_privilege(a.oid, n.oid, 'CREATE'))
        UNION ALL
        SELECT 'CREATE on the database' WHERE EXISTS (
            SELECT FROM acting a WHERE has_database_privilege(a.oid, current_database(), 'CREATE'))
        ORDER BY 1
        """,  # noqa: S608  # constants
        role=role,
    )


def _secrets(connection: psycopg.Connection, plan: Plan, role: str) -> list[str]:
    """Return what shows the role a secret column, in any schema: one that a rollback set aside has the same tables."""
    pairs = [(table, column) for table, columns in secret_columns(plan).items() for column in columns]
    return _values(
        connection,
        f"""{_ACTING}
        SELECT n.nspname || '.' || c.relname || '.' || t.attname
        FROM unnest(%(tables)s::text[], %(columns)s::text[]) AS secret(relation, attribute)
        JOIN pg_class c ON c.relkind IN ('r', 'p', 'f') AND (c.relname = relation OR c.oid IN (
            SELECT p.inhrelid FROM pg_inherits p JOIN pg_class parent ON parent.oid = p.inhparent
            WHERE parent.relname = relation))
        JOIN pg_namespace n ON n.oid = c.relnamespace AND {_OTHER_SCHEMAS}
        JOIN pg_attribute t ON t.attrelid = c.oid AND t.attname = attribute AND t.attnum > 0
        WHERE EXISTS (SELECT FROM acting a WHERE has_column_privilege(a.oid, c.oid, t.attnum, 'SELECT'))
        UNION ALL
        SELECT n.nspname || '.' || c.relname || ', which stands over secret columns'
        FROM ({VIEWS_OVER_TABLES}) AS over_secrets(oid) JOIN pg_class c ON c.oid = over_secrets.oid
        JOIN pg_namespace n ON n.oid = c.relnamespace AND {_OTHER_SCHEMAS}
        WHERE EXISTS (SELECT FROM acting a WHERE has_any_column_privilege(a.oid, c.oid, 'SELECT'))
        UNION ALL
        SELECT p.oid::regprocedure::text || ', which runs with its owner''s rights'
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND {_OTHER_SCHEMAS}
        WHERE p.prosecdef AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
          AND NOT {OF_EXTENSION.format("pg_proc", "p")}
          AND EXISTS (SELECT FROM acting a WHERE has_function_privilege(a.oid, p.oid, 'EXECUTE'))
        ORDER BY 1
        """,  # noqa: S608  # constants
        role=role,
        tables=[table for table, _ in pairs],
        columns=[column for _, column in pairs],
    )


def _default_rights(connection: psycopg.Connection, schema: str, role: str) -> list[str]:
    """Return default rights of the role to future tables: they would open a table while it is loaded."""
    return _values(
        connection,
        "SELECT 'tables that ' || pg_get_userbyid(d.defaclrole) || ' makes' FROM pg_default_acl d"
        " CROSS JOIN LATERAL aclexplode(d.defaclacl) a LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace"
        " WHERE d.defaclobjtype = 'r' AND (n.oid IS NULL OR n.nspname = %s)"
        " AND (a.grantee = 0 OR pg_has_role(%s, a.grantee, 'MEMBER'))",
        schema,
        role,
    )


def _none(name: str, title: str, wrong: Sequence[str], do: str, role: str) -> Check:
    outcome: Outcome = "failed" if wrong else "passed"
    return Check(name, title, outcome, "none", listed(wrong) or "none", do if wrong else "", f"role {role}")


def _acts_as(connection: psycopg.Connection, role: str) -> list[str]:
    return _values(
        connection,
        "SELECT r.rolname FROM pg_roles me, pg_roles r WHERE me.rolname = %s AND pg_has_role(me.oid, r.oid, 'MEMBER')",
        role,
    )


def _ledger_rights(connection: psycopg.Connection, role: str) -> list[str]:
    return _values(
        connection,
        "SELECT r.rolname || ' has ' || right_ FROM pg_roles r, pg_namespace n, unnest(ARRAY['USAGE', 'CREATE']) AS right_"
        " WHERE n.nspname = %s AND pg_has_role(%s, r.oid, 'MEMBER') AND has_schema_privilege(r.oid, n.oid, right_)",
        ledger.SCHEMA,
        role,
    )


def _values(connection: psycopg.Connection, query: str, *values: Any, **named: Any) -> list[str]:
    return [str(value) for (value,) in connection.execute(query.encode(), named or values).fetchall()]
