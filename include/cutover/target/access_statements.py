"""The SQL that gives roles in the target the rights of the plan, and takes all others.

Four roles, each with no more than it needs (``access:`` in the plan): the owner of the tables, the pipeline, the
application, and ``reporting``. ``role_statements`` is for an administrator, once. ``object_statements`` is for the owner of
the tables: a step of the cutover runs it when they are loaded, and ``access apply`` at any time later, when tables, columns
or the plan's secret columns have changed. Both return only what is missing: run again, they return nothing.

Where a table has secret columns, ``reporting`` gets its rights column by column, so a column that is added later stays
closed until the plan covers it. A view is open to it unless it reads such a table with its owner's rights: PostgreSQL does
not record which columns a whole row in a view includes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from include.cutover.errors import CannotCheck
from include.cutover.plan.access import Access
from include.cutover.plan.model import Plan
from include.cutover.target import catalog
from include.cutover.target.wording import quoted

_SEES = ("pg_read_all_settings", "pg_read_all_stats")  # where the data lies; whose sessions are open

OF_EXTENSION = "EXISTS (SELECT FROM pg_depend e WHERE e.classid = '{}'::regclass AND e.objid = {}.oid AND e.deptype = 'e')"
"""Condition: an object of this catalog, by its alias, belongs to an extension."""

# A view with security_invoker reads with the rights of the role that selects from it.
VIEWS_OVER_TABLES = """
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
"""Query: views that read one of the ``tables`` with their owner's rights, directly or through other views."""


def required(plan: Plan) -> Access:
    """Return the plan's roles.

    Raises:
        CannotCheck: When it names none.
    """
    if plan.access is None:
        raise CannotCheck(
            "the plan names no roles",
            where=f"plan {plan.name}",
            expected="access: with pipeline and application, and owner and reporting where there are any",
            do="Add access to the plan.",
        )
    return plan.access


def restricted(access: Access) -> list[str]:
    """Return the roles that get no rights beyond the application's rows."""
    return [role for role in (access.application, access.reporting) if role is not None]


def secret_columns(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return the secret columns of each table that has any."""
    return {table: settings.secret for table, settings in plan.tables.items() if settings.secret}


def role_statements(connection: psycopg.Connection, plan: Plan) -> list[str]:
    """Return what an administrator runs: roles, memberships, and rights to database and schema. It sets no password."""
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
    for role in restricted(access):
        make.no_membership(role, [name for name in wanted if name != role])
    make.database(access)
    make.schema(plan.target_schema, [name for name in (access.owner, access.pipeline) if name is not None])
    return make.done


def object_statements(connection: psycopg.Connection, plan: Plan) -> list[str]:
    """Return what sets the owner of the tables, the rights of ``reporting``, and the default rights to future tables.

    Empty while a table of the plan is missing: with default rights in place, its secret columns would be open while it is
    loaded.
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


class _Statements:
    """The statements that are missing, by the catalog."""

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
        role = quoted(name)
        if not found:
            self.done.append(" ".join(["CREATE ROLE", role, *change]) + ";")
        elif change:
            self.done.append(" ".join(["ALTER ROLE", role, *change]) + ";")

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
        """Set one of ``owners`` as the owner of the schema: after a rollback the pipeline owns it for a while."""
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
        """Transfer the pipeline's objects to the owner. As a member of the owner's role, the pipeline keeps its rights."""
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
              AND pg_get_userbyid(c.relowner) = %(pipeline)s AND NOT {OF_EXTENSION.format("pg_class", "c")}
              AND NOT (c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                       AND d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0))
            UNION ALL
            SELECT CASE p.prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END,
                   p.oid::regprocedure::text
            FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname = %(schema)s AND pg_get_userbyid(p.proowner) = %(pipeline)s
              AND NOT {OF_EXTENSION.format("pg_proc", "p")}
            UNION ALL
            SELECT 'TYPE', t.oid::regtype::text
            FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
            WHERE n.nspname = %(schema)s AND pg_get_userbyid(t.typowner) = %(pipeline)s AND t.typelem = 0
              AND (t.typrelid = 0 OR c.relkind = 'c') AND t.typtype <> 'm' AND NOT {OF_EXTENSION.format("pg_type", "t")}
            ORDER BY 1, 2"""  # noqa: S608  # constants
        for kind, name in self._with_full_names(query, **values):  # the catalog's own quoting, with the schema
            self.done.append(f"ALTER {kind} {name} OWNER TO {quoted(owner)};")

    def _with_full_names(self, query: str, **values: Any) -> list[tuple[str, str]]:
        with self._connection.transaction():
            (path,) = self._connection.execute("SELECT current_setting('search_path')").fetchone() or ("",)
            self._connection.execute("SELECT set_config('search_path', '', true)")
            found = self._connection.execute(query.encode(), values).fetchall()
            self._connection.execute("SELECT set_config('search_path', %s, true)", [path])
        return found

    def default_privileges(self, schema: str, creator: str, role: str, kind: LiteralString, rights: LiteralString) -> None:
        """Grant a role these rights, and no others, on what is created later.

        Args:
            schema: Where it is created.
            creator: Role that creates it.
            role: Role that gets the rights.
            kind: ``TABLES`` or ``SEQUENCES``.
            rights: With commas between them.
        """
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
        closed = {oid for (oid,) in self._names(VIEWS_OVER_TABLES, tables=list(secret))}
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
              AND NOT {OF_EXTENSION.format("pg_class", "c")}
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
