"""Roles in the target: what each may, the SQL that brings it about, and the look whether it is so.

Four roles, each with no more than it needs (``access:`` in the plan): the owner of the tables, the pipeline, the
application, and ``reporting``. ``role_statements`` is for an administrator, once. ``object_statements`` is for whoever owns
the tables: a step of the cutover runs it when they are loaded, and ``access apply`` at any time later, when tables, columns
or the plan's secret columns have changed. Both give what is missing and take what is too much; run again, nothing changes.

What ``reporting`` may read is given by the column where a table has secret columns, so that a column that comes later is
closed until the plan was looked at. A view is opened to it unless it stands over such a table with its owner's rights:
PostgreSQL does not record which columns a whole row in a view takes along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from include.cutover.checks import Check, Outcome
from include.cutover.errors import CannotCheck, StepFailed
from include.cutover.plan.access import Access
from include.cutover.plan.model import Plan
from include.cutover.target import catalog
from include.cutover.target import session as target_session
from include.cutover.target.ledger import Guard

LEDGER = "cutover"

_SEES = ("pg_read_all_settings", "pg_read_all_stats")  # where the data lies; whose sessions are open
_SHOWN = 10
_EVERYTHING = "INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
_OTHER_SCHEMAS = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
_OF_EXTENSION = "EXISTS (SELECT FROM pg_depend e WHERE e.classid = '{}'::regclass AND e.objid = {}.oid AND e.deptype = 'e')"

# Views and what they stand over, through other views too. A view with security_invoker asks with its reader's rights.
_OVER_SECRETS = """
    WITH RECURSIVE uses AS (
        SELECT DISTINCT r.ev_class AS view, d.refobjid AS used
        FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
             AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
    ), over AS (
        SELECT view, used FROM uses UNION SELECT over.view, uses.used FROM over JOIN uses ON uses.view = over.used
    )
    SELECT DISTINCT v.oid FROM over JOIN pg_class v ON v.oid = over.view JOIN pg_class c ON c.oid = over.used
    WHERE c.relkind IN ('r', 'p', 'f') AND c.relname = ANY(%(tables)s)
      AND NOT coalesce(v.reloptions && ARRAY['security_invoker=true', 'security_invoker=on', 'security_invoker=1'], false)
"""


def required(plan: Plan) -> Access:
    """The plan's roles.

    Raises:
        CannotCheck: When it names none.
    """
    if plan.access is None:
        raise CannotCheck(
            "the plan names no roles",
            where=f"plan {plan.name}",
            expected="access: with pipeline and application, and owner and reporting where there are any",
        )
    return plan.access


def secret_columns(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Table to its secret columns, where it has any."""
    return {table: settings.secret for table, settings in plan.tables.items() if settings.secret}


# --- what has to be done ------------------------------------------------------------------------------------------------


def role_statements(connection: psycopg.Connection, plan: Plan) -> list[str]:
    """The roles themselves, their memberships, the database and the schema: what an administrator runs. No passwords."""
    access = required(plan)
    make = _Statements(connection)
    wanted: dict[str, dict[str, bool]] = {
        access.pipeline: {"LOGIN": True, "CREATEROLE": plan.target_fence == "login", "CREATEDB": access.create_databases},
        access.application: {"CREATEROLE": False, "CREATEDB": False}
        | ({"LOGIN": True} if plan.target_fence == "privileges" else {}),  # else go-live gives it, and a rollback takes it
    }
    if access.owner is not None:
        wanted[access.owner] = {"LOGIN": False, "CREATEROLE": False, "CREATEDB": False}
    if access.reporting is not None:
        wanted[access.reporting] = {"LOGIN": True, "CREATEROLE": False, "CREATEDB": False}
    for role, attributes in wanted.items():
        make.role(role, {**attributes, "SUPERUSER": False, "REPLICATION": False, "BYPASSRLS": False})
    make.membership(access.application, access.pipeline, admin=plan.target_fence == "login")
    if access.owner is not None:
        make.membership(access.owner, access.pipeline)
    for group in _SEES:
        make.membership(group, access.pipeline)
    for role in _restricted(access):
        make.no_membership(role, [name for name in wanted if name != role])
    make.database(access)
    make.schema(plan.target_schema, [name for name in (access.owner, access.pipeline) if name is not None])
    return make.done


def object_statements(connection: psycopg.Connection, plan: Plan) -> list[str]:
    """Owner, reporting's rights and those to tables to come, for the tables that are there.

    Nothing where the plan's tables are not there yet: with rights to tables to come in place before them, their secret
    columns would be open while they are loaded.
    """
    access = required(plan)
    make = _Statements(connection)
    schema, owner = plan.target_schema, access.owner or access.pipeline
    if not set(plan.tables) <= set(catalog.tables(connection, schema)):
        return []
    if access.owner is not None:
        make.hand_over(schema, access.pipeline, access.owner)
    make.default_privileges(schema, owner, access.application, "TABLES", "SELECT, INSERT, UPDATE, DELETE")
    make.default_privileges(schema, owner, access.application, "SEQUENCES", "USAGE, SELECT")
    if access.reporting is not None:
        make.reporting(schema, access.reporting, secret_columns(plan))
        make.default_privileges(schema, owner, access.reporting, "TABLES", "SELECT")
    return make.done


def run(conninfo: str, plan: Plan, *, roles: bool, guard: Guard | None = None) -> list[str]:
    """Bring it about, all in one transaction, and return the statements. Safe to run again.

    Args:
        roles: Also the roles themselves, which takes an administrator.

    Raises:
        StepFailed: When the rights are not what they should be afterwards.
        Refused: When the session's role may not do that.
        LeaseLost: From ``guard``.
    """
    with target_session.session(conninfo, plan.target_schema) as connection, connection.transaction():
        if guard is not None:
            guard(connection)
        done = []
        for statements in ([role_statements] if roles else []) + [object_statements]:
            for statement in statements(connection, plan):
                connection.execute(statement.encode())
                done.append(statement)
        bad = [item for item in object_checks(connection, plan) if item.outcome == "failed"]
        if bad:
            raise StepFailed(
                "the roles have other rights than they should",
                where=f"schema {plan.target_schema}",
                found="; ".join(f"{item.title}: {item.found}" for item in bad),
                do=" ".join(item.do for item in bad),
            )
        return done


class _Statements:
    """Statements that are missing, each by a look into the catalog."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self.done: list[str] = []

    def _names(self, query: LiteralString, **values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, values).fetchall()

    def _add(self, statement: LiteralString, **names: str | list[str]) -> None:
        parts = {
            key: sql.SQL(", ").join(map(sql.Identifier, name)) if isinstance(name, list) else sql.Identifier(name)
            for key, name in names.items()
        }
        self.done.append(sql.SQL(statement).format(**parts).as_string(self._connection) + ";")

    def role(self, name: str, attributes: dict[str, bool]) -> None:
        found = self._names(
            "SELECT rolcanlogin, rolcreaterole, rolcreatedb, rolsuper, rolreplication, rolbypassrls, rolinherit"
            " FROM pg_roles WHERE rolname = %(name)s",
            name=name,
        )
        kinds = ("LOGIN", "CREATEROLE", "CREATEDB", "SUPERUSER", "REPLICATION", "BYPASSRLS", "INHERIT")
        has = dict(zip(kinds, found[0], strict=True)) if found else {"INHERIT": True}
        change = [kind if on else f"NO{kind}" for kind, on in attributes.items() if has.get(kind, False) != on]
        if not has["INHERIT"]:
            change.append("INHERIT")
        quoted = sql.Identifier(name).as_string(self._connection)
        if not found:
            self.done.append(" ".join(["CREATE ROLE", quoted, *change]) + ";")
        elif change:
            self.done.append(" ".join(["ALTER ROLE", quoted, *change]) + ";")

    def membership(self, group: str, member: str, *, admin: bool = False) -> None:
        wanted = "USAGE WITH ADMIN OPTION" if admin else "USAGE"
        found = self._names(
            "SELECT pg_has_role(m.oid, g.oid, 'USAGE'), NOT %(admin)s OR pg_has_role(m.oid, g.oid, %(wanted)s)"
            " FROM pg_roles g, pg_roles m WHERE g.rolname = %(group)s AND m.rolname = %(member)s AND NOT m.rolsuper",
            group=group,
            member=member,
            admin=admin,
            wanted=wanted,
        )
        if not found or not all(found[0]):
            self._add("GRANT {group} TO {member}" + (" WITH ADMIN OPTION" if admin else ""), group=group, member=member)

    def no_membership(self, member: str, groups: list[str]) -> None:
        for (group,) in self._names(
            "SELECT g.rolname FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member"
            " WHERE m.rolname = %(member)s AND (g.rolname = ANY(%(groups)s) OR g.rolname ~ '^pg_(read|write|execute)_')",
            member=member,
            groups=groups,
        ):
            self._add("REVOKE {group} FROM {member}", group=group, member=member)

    def database(self, access: Access) -> None:
        wants = {access.pipeline: ["CONNECT", "CREATE", "TEMPORARY"], access.application: ["CONNECT", "TEMPORARY"]}
        if access.reporting is not None:
            wants[access.reporting] = ["CONNECT"]
        ((database,),) = self._names("SELECT current_database()")
        # PUBLIC may make temporary tables at first; CONNECT stays with it, as others may come to this database that way.
        granted = {
            (role or "PUBLIC", right)
            for role, right in self._names(
                "SELECT r.rolname, a.privilege_type FROM pg_database d"
                " CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a"
                " LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE d.datname = current_database()"
            )
        }
        public = [right for right in ("CREATE", "TEMPORARY") if ("PUBLIC", right) in granted]
        if public:
            self._rights("REVOKE", public, "ON DATABASE {database} FROM PUBLIC", database=database)
        for role, rights in wants.items():
            missing = [right for right in rights if (role, right) not in granted]
            if missing:
                self._rights("GRANT", missing, "ON DATABASE {database} TO {role}", database=database, role=role)

    def _rights(self, verb: LiteralString, rights: Sequence[str], rest: LiteralString, **names: str) -> None:
        parts = {key: sql.Identifier(name) for key, name in names.items()}
        text = sql.SQL(rest).format(**parts).as_string(self._connection)
        self.done.append(f"{verb} {', '.join(rights)} {text};")

    def schema(self, schema: str, owners: Sequence[str]) -> None:
        """Of the first of them, or another one: after a rollback it is the pipeline's until its tables are handed over."""
        found = self._names(
            "SELECT pg_get_userbyid(nspowner), has_schema_privilege('public', oid, 'CREATE') FROM pg_namespace"
            " WHERE nspname = %(schema)s",
            schema=schema,
        )
        if not found:
            self._add("CREATE SCHEMA {schema} AUTHORIZATION {owner}", schema=schema, owner=owners[0])
            return
        if found[0][0] not in owners:
            self._add("ALTER SCHEMA {schema} OWNER TO {owner}", schema=schema, owner=owners[0])
        if found[0][1]:
            self._add("REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC", schema=schema)

    def hand_over(self, schema: str, pipeline: str, owner: str) -> None:
        """What the pipeline made becomes the owner's. The pipeline is a member of it, and can do all it could before."""
        values = {"schema": schema, "pipeline": pipeline}
        # In a database that the pipeline made itself, public is its own as the database's owner.
        if self._names(
            "SELECT FROM pg_namespace WHERE nspname = %(schema)s AND pg_get_userbyid(nspowner) <> %(owner)s"
            " AND pg_has_role(%(pipeline)s, nspowner, 'USAGE')",
            owner=owner,
            **values,
        ):
            self._add("ALTER SCHEMA {schema} OWNER TO {owner}", schema=schema, owner=owner)
        query = f"""
            SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                        WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, c.oid::regclass::text
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
              AND pg_get_userbyid(c.relowner) = %(pipeline)s AND NOT {_OF_EXTENSION.format("pg_class", "c")}
              AND NOT (c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                       AND d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0))
            UNION ALL
            SELECT CASE p.prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END,
                   p.oid::regprocedure::text
            FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname = %(schema)s AND pg_get_userbyid(p.proowner) = %(pipeline)s
              AND NOT {_OF_EXTENSION.format("pg_proc", "p")}
            UNION ALL
            SELECT 'TYPE', t.oid::regtype::text
            FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
            WHERE n.nspname = %(schema)s AND pg_get_userbyid(t.typowner) = %(pipeline)s AND t.typelem = 0
              AND (t.typrelid = 0 OR c.relkind = 'c') AND t.typtype <> 'm' AND NOT {_OF_EXTENSION.format("pg_type", "t")}
            ORDER BY 1, 2"""  # noqa: S608  # constants
        quoted = sql.Identifier(owner).as_string(self._connection)
        for kind, name in self._with_full_names(query, **values):  # the catalog's own quoting, with the schema
            self.done.append(f"ALTER {kind} {name} OWNER TO {quoted};")

    def _with_full_names(self, query: str, **values: Any) -> list[tuple[str, str]]:
        with self._connection.transaction():
            (path,) = self._connection.execute("SELECT current_setting('search_path')").fetchone() or ("",)
            self._connection.execute("SELECT set_config('search_path', '', true)")
            found = self._connection.execute(query.encode(), values).fetchall()
            self._connection.execute("SELECT set_config('search_path', %s, true)", [path])
        return found

    def default_privileges(self, schema: str, creator: str, role: str, kind: LiteralString, rights: LiteralString) -> None:
        found = self._names(
            "SELECT a.privilege_type FROM pg_default_acl d JOIN pg_namespace n ON n.oid = d.defaclnamespace"
            " CROSS JOIN LATERAL aclexplode(d.defaclacl) a WHERE n.nspname = %(schema)s"
            " AND pg_get_userbyid(d.defaclrole) = %(creator)s AND pg_get_userbyid(a.grantee) = %(role)s"
            " AND d.defaclobjtype = %(kind)s",
            schema=schema,
            creator=creator,
            role=role,
            kind="S" if kind == "SEQUENCES" else "r",
        )
        if {right for (right,) in found} != set(rights.split(", ")):
            start = "ALTER DEFAULT PRIVILEGES FOR ROLE {creator} IN SCHEMA {schema} "
            if found:
                self._add(f"{start}REVOKE ALL ON {kind} FROM {{role}}", creator=creator, schema=schema, role=role)
            self._add(f"{start}GRANT {rights} ON {kind} TO {{role}}", creator=creator, schema=schema, role=role)

    def reporting(self, schema: str, role: str, secret: dict[str, tuple[str, ...]]) -> None:
        if not self._names(
            "SELECT FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a WHERE n.nspname = %(schema)s"
            " AND pg_get_userbyid(a.grantee) = %(role)s AND a.privilege_type = 'USAGE'",
            schema=schema,
            role=role,
        ):
            self._add("GRANT USAGE ON SCHEMA {schema} TO {role}", schema=schema, role=role)
        closed = {oid for (oid,) in self._names(_OVER_SECRETS, tables=list(secret))}
        for oid, table, kind, columns, whole, given in self._names(
            f"""
            SELECT c.oid, c.relname, c.relkind::text,
                   array(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0
                         AND NOT attisdropped ORDER BY attnum),
                   array(SELECT a.privilege_type FROM aclexplode(c.relacl) a WHERE pg_get_userbyid(a.grantee) = %(role)s),
                   array(SELECT t.attname::text || ' ' || a.privilege_type FROM pg_attribute t
                         CROSS JOIN LATERAL aclexplode(t.attacl) a WHERE t.attrelid = c.oid AND t.attnum > 0
                         AND NOT t.attisdropped AND pg_get_userbyid(a.grantee) = %(role)s)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
              AND NOT {_OF_EXTENSION.format("pg_class", "c")}
            ORDER BY c.relname COLLATE "C"
            """,  # noqa: S608  # constants
            schema=schema,
            role=role,
        ):
            own = table == catalog.RECORD_TABLE or kind == "S" or oid in closed
            hidden = secret.get(table, ())
            wants_whole = [] if own or hidden else ["SELECT"]
            wants = [] if own or not hidden else [f"{name} SELECT" for name in columns if name not in hidden]
            if (sorted(whole), sorted(given)) == (wants_whole, sorted(wants)):
                continue
            names = {"schema": schema, "table": table, "role": role}
            place: LiteralString = "SEQUENCE {schema}.{table}" if kind == "S" else "{schema}.{table}"
            if whole or given:
                self._add(f"REVOKE ALL ON {place} FROM {{role}}", **names)
            if wants_whole:
                self._add(f"GRANT SELECT ON {place} TO {{role}}", **names)
            elif wants:
                readable = [name for name in columns if name not in hidden]
                self._add(f"GRANT SELECT ({{columns}}) ON {place} TO {{role}}", columns=readable, **names)


# --- whether it is so ---------------------------------------------------------------------------------------------------


def checks(conninfo: str, plan: Plan, *, as_pipeline: bool = False) -> list[Check]:
    """Roles and rights as they are, against the plan. Reads the catalog only; no role's password is needed.

    Args:
        as_pipeline: ``conninfo`` is the pipeline's own, which is looked at too.

    Raises:
        Unreachable: When the server does not answer.
    """
    with target_session.session(conninfo, plan.target_schema) as connection:
        own = [pipeline_check(connection, plan)] if as_pipeline else []
        return [*own, *role_checks(connection, plan), *object_checks(connection, plan)]


def pipeline_check(connection: psycopg.Connection, plan: Plan) -> Check:
    """Whether this is a session of the pipeline's role: what another one makes is not handed to the owner."""
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
    """Whether the roles are there, with the attributes and memberships that they need and no others."""
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
    for role in _restricted(access):
        acts = [name for name in _acts_as(connection, role) if name != role]
        dangerous = _values(
            connection,
            "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s) AND (rolsuper OR rolcreaterole OR rolcreatedb"
            " OR rolreplication OR rolbypassrls OR rolname = ANY(%s) OR rolname ~ '^pg_(read|write|execute)_'"
            " OR oid = (SELECT datdba FROM pg_database WHERE datname = current_database())) ORDER BY 1",
            acts,
            [name for name in (access.pipeline, access.owner, access.application) if name is not None],
        )
        do = " ".join(f"REVOKE {_quoted(name)} FROM {_quoted(role)};" for name in dangerous)
        found.append(_none("access_members", f"{role} can take no role with more rights", dangerous, do, role))
    return found


def object_checks(connection: psycopg.Connection, plan: Plan) -> list[Check]:
    """What application and reporting may with the objects of the database, whatever the rights come from."""
    access, schema = required(plan), plan.target_schema
    apply = (
        f"python -m include.cutover access apply --plan {plan.name} --target URL; what is left comes from elsewhere: PUBLIC?"
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
        WITH acting AS (SELECT oid FROM pg_roles r WHERE pg_has_role(%(role)s, r.oid, 'MEMBER'))
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
        _none("access_application_ledger", f"{role} does not see the ledger", _ledger(connection, role), apply, role),
    ]


def _reporting(connection: psycopg.Connection, plan: Plan, role: str, apply: str) -> list[Check]:
    schema, secret = plan.target_schema, secret_columns(plan)
    pairs = [(table, column) for table, columns in secret.items() for column in columns]
    acting = "WITH acting AS (SELECT oid FROM pg_roles r WHERE pg_has_role(%(role)s, r.oid, 'MEMBER'))"
    writes = _values(
        connection,
        f"""{acting}
        SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_OTHER_SCHEMAS} AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND EXISTS (SELECT FROM acting a
            WHERE has_table_privilege(a.oid, c.oid, '{_EVERYTHING}')
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
    # In whatever schema: one that was put aside at a rollback has the same tables.
    secrets = _values(
        connection,
        f"""{acting}
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
        FROM ({_OVER_SECRETS}) AS over_secrets(oid) JOIN pg_class c ON c.oid = over_secrets.oid
        JOIN pg_namespace n ON n.oid = c.relnamespace AND {_OTHER_SCHEMAS}
        WHERE EXISTS (SELECT FROM acting a WHERE has_any_column_privilege(a.oid, c.oid, 'SELECT'))
        UNION ALL
        SELECT p.oid::regprocedure::text || ', which runs with its owner''s rights'
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND {_OTHER_SCHEMAS}
        WHERE p.prosecdef AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
          AND NOT {_OF_EXTENSION.format("pg_proc", "p")}
          AND EXISTS (SELECT FROM acting a WHERE has_function_privilege(a.oid, p.oid, 'EXECUTE'))
        ORDER BY 1
        """,  # noqa: S608  # constants
        role=role,
        tables=[table for table, _ in pairs],
        columns=[column for _, column in pairs],
    )
    found = [
        _none("access_reporting_writes", f"{role} writes nothing", writes, apply, role),
        _none("access_reporting_secrets", f"{role} reads no secret column", secrets, apply, role),
        _none("access_reporting_ledger", f"{role} does not see the ledger", _ledger(connection, role), apply, role),
    ]
    missing = object_statements(connection, plan)
    made = set(plan.tables) <= set(catalog.tables(connection, schema))
    expected = "rights to every table, also to those that will be made"
    said = f"{len(missing)} statements missing, first: {missing[0]}" if missing else "as the plan has it"
    found.append(
        Check(
            "access_reporting_reads",
            f"{role} reads every table but its secret columns",
            "failed" if missing else "passed",
            expected,
            said if made else "the tables are not there yet; the cutover gives the rights",
            apply if missing else "",
            role,
        )
    )
    if not made:  # a default that is there before the tables opens them while they are loaded
        early = _values(
            connection,
            "SELECT 'tables that ' || pg_get_userbyid(d.defaclrole) || ' makes' FROM pg_default_acl d"
            " CROSS JOIN LATERAL aclexplode(d.defaclacl) a LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace"
            " WHERE d.defaclobjtype = 'r' AND (n.oid IS NULL OR n.nspname = %s)"
            " AND (a.grantee = 0 OR pg_has_role(%s, a.grantee, 'MEMBER'))",
            schema,
            role,
        )
        do = "ALTER DEFAULT PRIVILEGES … REVOKE ALL ON TABLES; the cutover gives the rights when the tables are loaded."
        found.append(_none("access_reporting_early", f"{role} reads nothing while the tables are loaded", early, do, role))
    return found


@dataclass(frozen=True)
class _Listed:
    names: Sequence[str]

    def __str__(self) -> str:
        more = len(self.names) - _SHOWN
        return ", ".join(self.names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _none(name: str, title: str, wrong: Sequence[str], do: str, role: str) -> Check:
    outcome: Outcome = "failed" if wrong else "passed"
    return Check(name, title, outcome, "none", str(_Listed(wrong)) or "none", do if wrong else "", f"role {role}")


def _restricted(access: Access) -> list[str]:
    return [role for role in (access.application, access.reporting) if role is not None]


def _acts_as(connection: psycopg.Connection, role: str) -> list[str]:
    return _values(
        connection,
        "SELECT r.rolname FROM pg_roles me, pg_roles r WHERE me.rolname = %s AND pg_has_role(me.oid, r.oid, 'MEMBER')",
        role,
    )


def _ledger(connection: psycopg.Connection, role: str) -> list[str]:
    return _values(
        connection,
        "SELECT r.rolname || ' has ' || right_ FROM pg_roles r, pg_namespace n, unnest(ARRAY['USAGE', 'CREATE']) AS right_"
        " WHERE n.nspname = %s AND pg_has_role(%s, r.oid, 'MEMBER') AND has_schema_privilege(r.oid, n.oid, right_)",
        LEDGER,
        role,
    )


def _values(connection: psycopg.Connection, query: str, *values: Any, **named: Any) -> list[str]:
    return [str(value) for (value,) in connection.execute(query.encode(), named or values).fetchall()]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
