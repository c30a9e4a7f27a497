"""The state of a schema as the catalog has it: everything but the rows that decides what the application will find.

``structure`` compares with the plan's SQL; this compares two moments, and so it also covers what no SQL of the plan says:
owners, rights, persistence, row security, settings of roles and database. A column is known by its number and a table by its
oid: one that was dropped and made again with the same definition is another one.

Left out are what the server changes by itself, such as statistics, and whether a constraint is validated, which the proof
changes. Function bodies and values of settings that PostgreSQL does not know are kept as digests: they may hold secrets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from include.cutover.target import catalog, structure, write_guard
from include.cutover.target.session import use_schema

Key = tuple[str, str, str]
"""Kind, object, and name within the object."""

State = Mapping[Key, str]

RELATION, RIGHTS, LOGIN, GUARD, FILE = "relation", "rights", "log-in", "guard", "file"
ROLE, SETTING, ACTING = "role", "setting", "acting role"
ITSELF = "itself"
IN_THIS_DATABASE = " in this database"

# The rights that go-live gives to the application's role; see ``fence.let_in``.
_GIVEN = {"table", "view", "sequence", "schema"}
_RIGHTS_GIVEN = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "USAGE"})

_OURS = """
    WITH RECURSIVE place AS (SELECT oid, nspname, nspowner, nspacl FROM pg_namespace WHERE nspname = %(schema)s),
    ours AS (SELECT class.* FROM pg_class AS class JOIN place ON class.relnamespace = place.oid),
    tables AS (SELECT * FROM ours WHERE relkind IN ('r', 'p')),
    plain AS (
        SELECT indexrelid FROM pg_index JOIN ours ON ours.oid = indexrelid AND ours.relam < 16384
        WHERE NOT indisunique AND NOT indisexclusion AND NOT indisreplident AND indisvalid AND indisready AND indislive
          AND indexprs IS NULL AND indpred IS NULL AND 16384 > ALL (indclass::oid[])
    )
"""

_OBJECTS = """
    SELECT 'relation', relname, '', jsonb_build_object(
        'kind', relkind, 'persistence', relpersistence, 'owner', pg_get_userbyid(relowner), 'row security', relrowsecurity,
        'row security for the owner', relforcerowsecurity, 'options', reloptions, 'tablespace', reltablespace,
        'replica identity', CASE WHEN relkind IN ('r', 'p') THEN relreplident END,
        'oid', CASE WHEN relkind IN ('r', 'p', 'S') THEN oid END,
        'parents', ARRAY(SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = ours.oid ORDER BY 1),
        'children', ARRAY(SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = ours.oid ORDER BY 1),
        'partitions half detached', NULLIF(ARRAY(SELECT inhrelid::regclass::text FROM pg_inherits
            WHERE inhparent = ours.oid AND inhdetachpending ORDER BY 1), '{}'),
        'bounds', pg_get_expr(relpartbound, oid),
        'plain index', CASE WHEN relkind IN ('i', 'I') THEN oid IN (SELECT indexrelid FROM plain) END,
        'query', CASE WHEN relkind IN ('v', 'm') THEN md5(pg_get_viewdef(oid)) END)::text
    FROM ours
    UNION ALL
    SELECT 'file', relname, '', pg_relation_filenode(oid)::text FROM tables WHERE relkind = 'r'
    UNION ALL
    SELECT 'column', relname, attname, jsonb_build_object(
        'number', attnum, 'type', format_type(atttypid, atttypmod), 'value of older rows', md5(attmissingval::text))::text
    FROM tables JOIN pg_attribute ON attrelid = tables.oid AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'index', tables.relname, indexrelid::regclass::text, jsonb_build_object(
        'valid', indisvalid, 'ready', indisready, 'live', indislive, 'unique', indisunique, 'immediate', indimmediate,
        'replica identity', indisreplident, 'plain', indexrelid IN (SELECT indexrelid FROM plain))::text
    FROM tables JOIN pg_index ON indrelid = tables.oid
    UNION ALL
    SELECT 'enforcement of a constraint', relname, coalesce(conname, tgname), string_agg(tgenabled::text, '' ORDER BY tgfoid)
    FROM tables JOIN pg_trigger ON tgrelid = tables.oid LEFT JOIN pg_constraint ON pg_constraint.oid = tgconstraint
    WHERE tgisinternal GROUP BY 1, 2, 3
    UNION ALL
    SELECT 'rule', relname, rulename, ev_enabled::text || pg_get_ruledef(pg_rewrite.oid)
    FROM ours JOIN pg_rewrite ON ev_class = ours.oid WHERE rulename <> '_RETURN'
    UNION ALL
    SELECT 'policy', relname, polname, to_jsonb(pg_policy)::text FROM ours JOIN pg_policy ON polrelid = ours.oid
    UNION ALL
    SELECT 'sequence', relname, '', (to_jsonb(pg_sequence) - 'seqrelid')::text
    FROM ours JOIN pg_sequence ON seqrelid = ours.oid
    UNION ALL
    SELECT 'function', oid::regprocedure::text, '', jsonb_build_object('owner', pg_get_userbyid(proowner),
        'digest', md5((to_jsonb(pg_proc) - 'proacl' - 'proowner')::text))::text
    FROM pg_proc WHERE pronamespace = (SELECT oid FROM place)
       OR oid IN (SELECT tgfoid FROM ours JOIN pg_trigger ON tgrelid = ours.oid
                  WHERE NOT tgisinternal AND tgfoid NOT IN (
                      SELECT oid FROM pg_proc WHERE pronamespace = to_regnamespace('cutover')))
       OR oid IN (
           SELECT refobjid FROM pg_depend WHERE refclassid = 'pg_proc'::regclass AND (classid, objid) IN (
               SELECT 'pg_constraint'::regclass::oid, pg_constraint.oid
               FROM tables JOIN pg_constraint ON conrelid = tables.oid
               UNION ALL
               SELECT 'pg_attrdef'::regclass::oid, pg_attrdef.oid FROM tables JOIN pg_attrdef ON adrelid = tables.oid
               UNION ALL
               SELECT 'pg_class'::regclass::oid, indexrelid FROM tables JOIN pg_index ON indrelid = tables.oid
               UNION ALL
               SELECT 'pg_policy'::regclass::oid, pg_policy.oid FROM tables JOIN pg_policy ON polrelid = tables.oid))
    UNION ALL
    SELECT 'type', typname, '', jsonb_build_object('owner', pg_get_userbyid(typowner),
        'digest', md5((to_jsonb(pg_type) - 'typacl' - 'typowner')::text),
        'values', ARRAY(SELECT enumlabel FROM pg_enum WHERE enumtypid = pg_type.oid ORDER BY enumsortorder),
        'constraints', ARRAY(SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
                             WHERE contypid = pg_type.oid ORDER BY 1))::text
    FROM pg_type WHERE typnamespace = (SELECT oid FROM place) AND typtype IN ('d', 'e', 'r')
    UNION ALL
    SELECT 'schema', nspname, '', jsonb_build_object('owner', pg_get_userbyid(nspowner))::text FROM place
    UNION ALL
    SELECT 'publication', pubname, '', (to_jsonb(pg_publication) - 'oid')::text FROM pg_publication
    WHERE puballtables OR EXISTS (SELECT FROM pg_publication_tables AS listed JOIN place ON place.nspname = listed.schemaname
                                  WHERE listed.pubname = pg_publication.pubname)
    UNION ALL
    SELECT 'subscription', subname, '', jsonb_build_object(
        'owner', pg_get_userbyid(subowner), 'enabled', subenabled, 'publications', subpublications)::text
    FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL
    SELECT 'event trigger', evtname, '', (to_jsonb(pg_event_trigger) - 'oid')::text FROM pg_event_trigger
    UNION ALL
    SELECT 'extension', extname, '', extversion FROM pg_extension
"""

_GRANTS = """
    , granted AS (
        SELECT CASE relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' WHEN 'm' THEN 'view' ELSE 'table' END AS kind,
               relname::text AS name, acl.*
        FROM ours CROSS JOIN LATERAL aclexplode(coalesce(
            relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner))) AS acl
        WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL
        SELECT 'column', relname || '.' || attname, acl.*
        FROM ours JOIN pg_attribute ON attrelid = ours.oid AND attacl IS NOT NULL AND NOT attisdropped
        CROSS JOIN LATERAL aclexplode(attacl) AS acl
        UNION ALL
        SELECT 'schema', nspname::text, acl.*
        FROM place CROSS JOIN LATERAL aclexplode(coalesce(nspacl, acldefault('n', nspowner))) AS acl
        UNION ALL
        SELECT 'database', '', acl.*
        FROM pg_database CROSS JOIN LATERAL aclexplode(coalesce(datacl, acldefault('d', datdba))) AS acl
        WHERE datname = current_database()
        UNION ALL
        SELECT 'function', pg_proc.oid::regprocedure::text, acl.*
        FROM pg_proc JOIN place ON pronamespace = place.oid
        CROSS JOIN LATERAL aclexplode(coalesce(proacl, acldefault('f', proowner))) AS acl
        UNION ALL
        SELECT 'type', typname::text, acl.*
        FROM pg_type JOIN place ON typnamespace = place.oid AND typtype IN ('d', 'e', 'r')
        CROSS JOIN LATERAL aclexplode(coalesce(typacl, acldefault('T', typowner))) AS acl
        UNION ALL
        SELECT 'default', pg_get_userbyid(defaclrole) || ' ' || defaclobjtype::text, acl.*
        FROM pg_default_acl CROSS JOIN LATERAL aclexplode(defaclacl) AS acl
        WHERE defaclnamespace IN (0, (SELECT oid FROM place))
    ),
    acting AS (
        SELECT oid, true AS itself FROM pg_roles WHERE rolname IN (%(role)s, current_user)
        UNION
        SELECT owner, true FROM (
            SELECT relowner FROM ours UNION ALL SELECT nspowner FROM place
            UNION ALL SELECT datdba FROM pg_database WHERE datname = current_database()
            UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = (SELECT oid FROM place)
                         OR oid IN (SELECT tgfoid FROM pg_trigger JOIN ours ON tgrelid = ours.oid)
        ) AS owners (owner)
        UNION
        SELECT roleid, false FROM pg_auth_members JOIN acting ON member = acting.oid
    ),
    roles AS (
        SELECT * FROM pg_roles WHERE oid IN (
            SELECT oid FROM acting UNION ALL SELECT grantee FROM granted WHERE kind NOT IN ('database', 'default'))
    )
    SELECT 'rights', rtrim(kind || ' ' || name), CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END,
           string_agg(DISTINCT privilege_type || CASE WHEN is_grantable THEN '*' ELSE '' END, ', ')
    FROM granted GROUP BY 1, 2, 3
    UNION ALL
    SELECT 'acting role', rolname, '', CASE WHEN bool_or(itself) THEN 'itself' ELSE 'by membership' END
    FROM pg_roles JOIN acting USING (oid) GROUP BY rolname
    UNION ALL
    SELECT 'role', rolname, '', jsonb_build_object(
        'superuser', rolsuper, 'reaches a superuser', rolsuper OR EXISTS (
            SELECT FROM pg_roles AS strong WHERE pg_has_role(roles.oid, strong.oid, 'MEMBER') AND (
                strong.rolsuper OR strong.rolname IN ('pg_execute_server_program', 'pg_write_server_files'))),
        'played by', CASE WHEN oid IN (SELECT oid FROM acting WHERE itself) THEN ARRAY(
            SELECT other.rolname FROM pg_roles AS other
            WHERE pg_has_role(other.oid, roles.oid, 'MEMBER') AND NOT other.rolsuper ORDER BY 1) END,
        'passes row security', rolbypassrls, 'inherits', rolinherit,
        'may create roles', rolcreaterole, 'replicates', rolreplication, 'connections', rolconnlimit,
        'valid until', rolvaliduntil,
        'member of', ARRAY(SELECT to_jsonb(one)::text FROM pg_auth_members AS one WHERE member = roles.oid ORDER BY 1),
        'members', ARRAY(SELECT to_jsonb(one)::text FROM pg_auth_members AS one WHERE roleid = roles.oid ORDER BY 1))::text
    FROM roles
    UNION ALL
    SELECT 'log-in', rolname, '', rolcanlogin::text FROM roles
    UNION ALL
    SELECT 'setting', coalesce(rolname, 'every role') || CASE setdatabase WHEN 0 THEN '' ELSE ' in this database' END,
           split_part(setting, '=', 1),
           CASE WHEN split_part(setting, '=', 1) LIKE '%%.%%' THEN md5(setting) ELSE substring(setting FROM '=(.*)') END
    FROM pg_db_role_setting LEFT JOIN roles ON roles.oid = setrole CROSS JOIN LATERAL unnest(setconfig) AS setting
    WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
      AND (setrole = 0 OR roles.oid IS NOT NULL)
    UNION ALL
    SELECT 'database', '', '', jsonb_build_object(
        'owner', pg_get_userbyid(datdba), 'connections', datconnlimit, 'open', datallowconn)::text
    FROM pg_database WHERE datname = current_database()
    UNION ALL
    SELECT 'setting', 'the server', name, reset_val FROM pg_settings
    WHERE name IN ('session_replication_role', 'default_transaction_read_only', 'default_transaction_isolation',
                   'row_security', 'fsync', 'full_page_writes')
"""


@dataclass(frozen=True)
class Change:
    """An object that is another than before; ``before`` or ``after`` is None where it did not exist."""

    key: Key
    before: str | None
    after: str | None

    def __str__(self) -> str:
        kind, thing, name = self.key
        if kind == ACTING and None in (self.before, self.after):
            return f"the application's statements {'begin' if self.before is None else 'cease'} to act with the role {thing}"
        named = f"{kind} of {name} on {thing}" if kind == RIGHTS else " ".join(filter(None, [kind, thing, name]))
        if self.before is None:
            return f"{named} is new{f' ({self.after})' if kind == RIGHTS else ''}"
        if self.after is None:
            return f"{named} is gone{f' ({self.before})' if kind == RIGHTS else ''}"
        old, new = _fields(self.before), _fields(self.after)
        parts = [
            f"{field} was {_short(old.get(field))}, is {_short(new.get(field))}" for field in sorted(self.fields_changed)
        ]
        return f"{named}: {'; '.join(parts)}" if old else f"{named} was {_short(self.before)}, is {_short(self.after)}"

    @property
    def fields_before(self) -> dict[str, Any]:
        """The object's fields; empty where it did not exist or has none."""
        return _fields(self.before or "")

    @property
    def fields_after(self) -> dict[str, Any]:
        """As ``fields_before``."""
        return _fields(self.after or "")

    @property
    def fields_changed(self) -> set[str]:
        """The names of the fields that have another value."""
        before, after = self.fields_before, self.fields_after
        return {field for field in before.keys() | after.keys() if before.get(field) != after.get(field)}

    @property
    def rights_before(self) -> frozenset[str]:
        """The rights, where the object is a grantee's rights; one that may be granted on ends with an asterisk."""
        return frozenset(_rights(self.before))

    @property
    def rights_after(self) -> frozenset[str]:
        """As ``rights_before``."""
        return frozenset(_rights(self.after))


def read(connection: psycopg.Connection, schema: str, role: str | None) -> dict[Key, str]:
    """Read the state of the schema, and of what lies around it and matters to the application.

    Args:
        connection: A session of the pipeline's role; afterwards unqualified names mean ``schema``.
        schema: The plan's target schema.
        role: The application's role.
    """
    use_schema(connection, schema)
    values = {"schema": schema, "role": role}
    found: dict[Key, str] = {}
    for query in (_OURS + _OBJECTS, _OURS + _GRANTS):
        for kind, thing, name, text in connection.execute(query.encode(), values):
            found[kind, thing, name] = str(text)
    present = sorted(thing for (kind, thing, _), text in found.items() if kind == RELATION and _is_table(text))
    for (kind, table, name), text in structure.definitions(connection, schema, schema, present).items():
        found[f"definition of the {kind}", table, name] = text
    for table, standing in write_guard.state(connection, schema).items():
        found[GUARD, table, ""] = standing
    found[GUARD, "function", ""] = "as made" if write_guard.function_is_ours(connection) else "another"
    return found


def changes(before: State, after: State) -> list[Change]:
    """Return what changed, whole tables first. New files of tables are left out, see ``new_files``: rows may have moved."""
    return [
        Change(key, before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys(), key=lambda key: (key[0] != RELATION, key))
        if before.get(key) != after.get(key) and key[0] != FILE
    ]


def new_files(before: State, after: State) -> set[str]:
    """Return the tables that PostgreSQL wrote anew, as by VACUUM FULL, CLUSTER or TRUNCATE; of a partition its table too."""
    new = {key[1] for key in after if key[0] == FILE and before.get(key) != after[key]}
    parents = {
        key[1]: [_unquoted(parent) for parent in _fields(text).get("parents") or ()]
        for key, text in after.items()
        if key[0] == RELATION
    }
    reached = list(new)
    for name in reached:
        reached += [parent for parent in parents.get(name, ()) if parent not in reached]
    return set(reached)


def without_entry(found: list[Change], role: str | None) -> list[Change]:
    """Return the changes without those that letting the application in makes: its rights, its log-in, the guard's end."""
    return [change for change in found if not _is_entry(change, role)]


def as_rows(state: State) -> list[list[str]]:
    """Return the state for a file of the evidence; ``from_rows`` reads it again."""
    return [[*key, text] for key, text in sorted(state.items())]


def from_rows(rows: list[list[str]]) -> dict[Key, str]:
    """Read ``as_rows``."""
    return {(kind, thing, name): text for kind, thing, name, text in rows}


def tables(connection: psycopg.Connection, schema: str) -> list[str]:
    """Return the tables whose rows are compared: those of ``catalog``, and the record of applied SQL files."""
    row = connection.execute(
        "SELECT FROM pg_tables WHERE schemaname = %s AND tablename = %s", [schema, catalog.RECORD_TABLE]
    ).fetchone()
    return catalog.tables(connection, schema) + ([catalog.RECORD_TABLE] if row is not None else [])


def _is_table(text: str) -> bool:
    return json.loads(text)["kind"] in ("r", "p")


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _is_entry(change: Change, role: str | None) -> bool:
    kind, thing, name = change.key
    if kind == GUARD:
        return thing != "function"
    if role is None:
        return False
    if kind == LOGIN and thing == role:
        return change.after == "true"
    if kind != RIGHTS or name != role or change.after is None or thing.partition(" ")[0] not in _GIVEN:
        return False
    return change.rights_after - change.rights_before <= _RIGHTS_GIVEN and change.rights_before <= change.rights_after


def _rights(text: str | None) -> Iterator[str]:
    return iter(text.split(", ") if text else [])


def _fields(text: str) -> dict[str, Any]:
    if not text.startswith("{"):
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _short(value: Any) -> str:
    text = "nothing" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}…"
