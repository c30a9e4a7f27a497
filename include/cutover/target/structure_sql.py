"""The query for all objects that decide what a table holds and what a write to it does, in PostgreSQL's own words.

Definitions come from functions that leave out the schema's name where the search path begins with it.
"""

from __future__ import annotations

from include.cutover.target.write_guard import OF_GUARD

# The letter of a trigger or a rule: "ENABLE ALWAYS" and "DISABLE" are not the same.
_STATE = """CASE {} WHEN 'O' THEN '' WHEN 'D' THEN ' disabled' WHEN 'A' THEN ' enabled always'
              ELSE ' enabled for replicas' END"""

_TABLES = """
    WITH RECURSIVE place AS (SELECT to_regnamespace(quote_ident(%(schema)s)) AS oid),
    named AS (
        SELECT class.oid, class.relname, class.relkind, class.relpersistence, class.relrowsecurity, class.relforcerowsecurity
        FROM pg_class AS class, place
        WHERE class.relnamespace = place.oid AND class.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
          AND class.relname = ANY (%(tables)s)
    ),
    tables AS (SELECT * FROM named WHERE relkind IN ('r', 'p')),
"""

# Types of the columns, and the types that these are made of.
_TYPES = """
    types AS (
        SELECT tables.relname, attribute.atttypid AS oid
        FROM tables JOIN pg_attribute AS attribute ON attribute.attrelid = tables.oid
        WHERE attribute.attnum > 0 AND NOT attribute.attisdropped
        UNION
        SELECT types.relname, part.oid
        FROM types
        JOIN pg_type AS type ON type.oid = types.oid
        LEFT JOIN pg_range AS range ON range.rngtypid = type.oid OR range.rngmultitypid = type.oid
        CROSS JOIN LATERAL (
            SELECT unnest(ARRAY[type.typelem, type.typbasetype, range.rngtypid, range.rngsubtype])
            UNION
            SELECT atttypid FROM pg_attribute
            WHERE attrelid = type.typrelid AND type.typtype = 'c' AND attnum > 0 AND NOT attisdropped
        ) AS part (oid)
        WHERE part.oid <> 0
    )
"""

_TABLE = """
    SELECT 'table', relname, '',
           CASE relkind WHEN 'v' THEN 'not a table but a view' WHEN 'm' THEN 'not a table but a materialized view'
                        WHEN 'f' THEN 'not a table but a foreign table' WHEN 'S' THEN 'not a table but a sequence'
                        WHEN 'p' THEN 'partitioned ' || pg_get_partkeydef(oid) || ' ' ELSE '' END
           || CASE relpersistence WHEN 'u' THEN 'unlogged ' ELSE '' END
           || CASE WHEN relrowsecurity THEN 'with row security' ELSE '' END
           || CASE WHEN relforcerowsecurity THEN ' forced upon the owner' ELSE '' END
    FROM named
"""

_COLUMN = """
    SELECT 'column', tables.relname, attribute.attname,
           format_type(attribute.atttypid, attribute.atttypmod)
           || CASE WHEN attribute.attnotnull THEN ' NOT NULL' ELSE '' END
           || CASE attribute.attgenerated WHEN '' THEN '' WHEN 'v' THEN ' generated when read' ELSE ' generated' END
           || CASE attribute.attidentity WHEN 'a' THEN ' identity always' WHEN 'd' THEN ' identity' ELSE '' END
           || coalesce(' default ' || pg_get_expr(attrdef.adbin, attrdef.adrelid), '')
           || CASE WHEN attribute.attcollation = type.typcollation THEN ''
              ELSE ' COLLATE ' || attribute.attcollation::regcollation::text END
    FROM tables
    JOIN pg_attribute AS attribute ON attribute.attrelid = tables.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
    JOIN pg_type AS type ON type.oid = attribute.atttypid
    LEFT JOIN pg_attrdef AS attrdef ON (attrdef.adrelid, attrdef.adnum) = (attribute.attrelid, attribute.attnum)
"""

_TYPE = """
    SELECT 'type', types.relname, format_type(type.oid, NULL),
           CASE type.typtype
           WHEN 'd' THEN 'domain over ' || format_type(type.typbasetype, type.typtypmod)
               || CASE WHEN type.typnotnull THEN ' NOT NULL' ELSE '' END || coalesce(' default ' || type.typdefault, '')
               || coalesce((SELECT string_agg(format(' CHECK %%I %%s', con.conname, pg_get_constraintdef(con.oid, true)),
                                              '' ORDER BY con.conname)
                            FROM pg_constraint AS con WHERE con.contypid = type.oid AND con.contype = 'c'), '')
           WHEN 'e' THEN 'enum ' || coalesce((SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder)
                                              FROM pg_enum WHERE enumtypid = type.oid), '')
           WHEN 'c' THEN 'composite ' || coalesce((
               SELECT string_agg(format('%%I %%s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)
               FROM pg_attribute WHERE attrelid = type.typrelid AND attnum > 0 AND NOT attisdropped), '')
           ELSE 'range over ' || (SELECT format_type(rngsubtype, NULL) FROM pg_range WHERE rngtypid = type.oid) END
    FROM types
    JOIN pg_type AS type ON type.oid = types.oid AND type.typtype IN ('d', 'e', 'c', 'r')
    JOIN pg_namespace AS namespace ON namespace.oid = type.typnamespace
    WHERE namespace.nspname NOT IN ('pg_catalog', 'information_schema')
"""

_CONSTRAINT = """
    SELECT 'constraint', tables.relname, con.conname, replace(pg_get_constraintdef(con.oid), ' NOT VALID', '')
    FROM tables JOIN pg_constraint AS con ON con.conrelid = tables.oid
    WHERE con.contype IN ('p', 'u', 'f', 'c', 'x') AND con.conparentid = 0
"""

_INDEX = """
    SELECT 'index', tables.relname, class.relname,
           CASE WHEN index.indisunique THEN 'unique ' ELSE '' END
           || substring(pg_get_indexdef(index.indexrelid) FROM length(pg_catalog.format(
               'CREATE %%sINDEX %%I ON %%s%%I.%%I ', CASE WHEN index.indisunique THEN 'UNIQUE ' ELSE '' END,
               class.relname, CASE tables.relkind WHEN 'p' THEN 'ONLY ' ELSE '' END, %(schema)s::text, tables.relname
           )) + 1)
    FROM tables
    JOIN pg_index AS index ON index.indrelid = tables.oid
    JOIN pg_class AS class ON class.oid = index.indexrelid
    WHERE NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = index.indexrelid AND conrelid = index.indrelid)
"""

# Owned by the column, or named by its default.
_SEQUENCE = """
    SELECT DISTINCT 'sequence', tables.relname, attribute.attname,
           format_type(sequence.seqtypid, NULL) || ' increment ' || sequence.seqincrement
           || ' from ' || sequence.seqmin || ' to ' || sequence.seqmax
           || CASE WHEN sequence.seqcycle THEN ' cycle' ELSE '' END
           || CASE class.relpersistence WHEN 'u' THEN ' unlogged' ELSE '' END
    FROM tables
    JOIN (
        SELECT objid AS sequence, refobjid AS relation, refobjsubid AS attnum
        FROM pg_depend
        WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i')
        UNION
        SELECT depend.refobjid, attrdef.adrelid, attrdef.adnum
        FROM pg_depend AS depend JOIN pg_attrdef AS attrdef ON attrdef.oid = depend.objid
        WHERE depend.classid = 'pg_attrdef'::regclass AND depend.refclassid = 'pg_class'::regclass
    ) AS use ON use.relation = tables.oid
    JOIN pg_sequence AS sequence ON sequence.seqrelid = use.sequence
    JOIN pg_class AS class ON class.oid = sequence.seqrelid
    JOIN pg_attribute AS attribute ON (attribute.attrelid, attribute.attnum) = (tables.oid, use.attnum)
"""

# A trigger that PostgreSQL made for a constraint has a name with a number in it; disabled, it checks nothing.
_TRIGGER = f"""
    SELECT 'trigger', tables.relname, trigger.tgname,
           pg_get_triggerdef(trigger.oid, true) || {_STATE.format("trigger.tgenabled")}
    FROM tables JOIN pg_trigger AS trigger ON trigger.tgrelid = tables.oid
    WHERE NOT trigger.tgisinternal AND trigger.tgfoid NOT IN {OF_GUARD}
    UNION
    SELECT 'trigger', tables.relname, con.conname,
           'the check of the constraint ' || con.conname || ' is not enabled as made ('
           || string_agg(trigger.tgenabled::text, '' ORDER BY trigger.tgfoid) || ')'
    FROM tables
    JOIN pg_trigger AS trigger ON trigger.tgrelid = tables.oid
    JOIN pg_constraint AS con ON con.oid = trigger.tgconstraint
    WHERE trigger.tgisinternal AND trigger.tgenabled <> 'O'
    GROUP BY tables.relname, con.conname
"""  # noqa: S608  # a constant

_RULE = f"""
    SELECT 'rule', tables.relname, rewrite.rulename,
           pg_get_ruledef(rewrite.oid, true) || {_STATE.format("rewrite.ev_enabled")}
    FROM tables JOIN pg_rewrite AS rewrite ON rewrite.ev_class = tables.oid
"""  # noqa: S608  # a constant

_POLICY = """
    SELECT 'policy', tables.relname, policy.polname,
           CASE WHEN policy.polpermissive THEN 'permissive' ELSE 'restrictive' END
           || CASE policy.polcmd WHEN 'r' THEN ' for SELECT' WHEN 'a' THEN ' for INSERT' WHEN 'w' THEN ' for UPDATE'
                                 WHEN 'd' THEN ' for DELETE' ELSE ' for all' END
           || ' to ' || (SELECT string_agg(CASE role WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(role) END, ', '
                                           ORDER BY pg_get_userbyid(role))
                         FROM unnest(policy.polroles) AS role)
           || coalesce(' using ' || pg_get_expr(policy.polqual, policy.polrelid), '')
           || coalesce(' with check ' || pg_get_expr(policy.polwithcheck, policy.polrelid), '')
    FROM tables JOIN pg_policy AS policy ON policy.polrelid = tables.oid
"""

# A partition of its own kind only holds rows; one with more could change or refuse them.
_INHERITANCE = f"""
    SELECT 'inheritance', tables.relname, child.oid::regclass::text,
           CASE WHEN child.relispartition THEN 'partition ' || pg_get_expr(child.relpartbound, child.oid) ELSE 'child' END
           || CASE WHEN child.relkind = 'r' AND child.relpersistence = 'p' THEN '' ELSE ', not a plain table' END
           || CASE WHEN child.relnamespace = (SELECT oid FROM place) THEN '' ELSE ', in another schema' END
           || CASE WHEN inherits.inhdetachpending THEN ', half detached' ELSE '' END
           || CASE WHEN child.relrowsecurity
                OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid = child.oid AND tgparentid = 0 AND NOT tgisinternal
                           AND tgfoid NOT IN {OF_GUARD})
                OR EXISTS (SELECT FROM pg_rewrite WHERE ev_class = child.oid)
                OR EXISTS (SELECT FROM pg_attribute AS own JOIN pg_attribute AS above USING (attname)
                           WHERE own.attrelid = child.oid AND above.attrelid = tables.oid
                             AND own.attnotnull AND NOT above.attnotnull)
                OR EXISTS (SELECT FROM pg_constraint WHERE conrelid = child.oid AND contype <> 'n' AND conislocal
                           AND conparentid = 0 AND coninhcount = 0)
                OR EXISTS (SELECT FROM pg_index AS index WHERE index.indrelid = child.oid AND index.indisunique
                           AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = index.indexrelid))
              THEN ', with rules, triggers, policies or constraints of its own' ELSE '' END
    FROM tables
    JOIN pg_inherits AS inherits ON inherits.inhparent = tables.oid
    JOIN pg_class AS child ON child.oid = inherits.inhrelid
    UNION
    SELECT 'inheritance', tables.relname, inherits.inhparent::regclass::text, 'parent'
    FROM tables JOIN pg_inherits AS inherits ON inherits.inhrelid = tables.oid
"""  # noqa: S608  # a constant

# Of the whole schema: a trigger's function may call another, which the catalog does not record.
_FUNCTION = """
    SELECT 'function', '', function.proname || '(' || pg_get_function_identity_arguments(function.oid) || ')',
           pg_get_functiondef(function.oid)
    FROM pg_proc AS function JOIN place ON function.pronamespace = place.oid
    WHERE function.prokind IN ('f', 'p', 'w') AND NOT EXISTS (
        SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = function.oid AND deptype = 'e')
"""

# With all that decides what a write to the view does.
_VIEW = f"""
    SELECT 'view', '', class.relname,
           pg_get_viewdef(class.oid, true) || coalesce(array_to_string(class.reloptions, ', '), '')
           || coalesce((SELECT string_agg(' ' || pg_get_triggerdef(trigger.oid, true), '' ORDER BY trigger.tgname)
                        FROM pg_trigger AS trigger WHERE trigger.tgrelid = class.oid AND NOT trigger.tgisinternal), '')
           || coalesce((SELECT string_agg(' ' || pg_get_ruledef(rewrite.oid, true) || {_STATE.format("rewrite.ev_enabled")},
                                          '' ORDER BY rewrite.rulename)
                        FROM pg_rewrite AS rewrite
                        WHERE rewrite.ev_class = class.oid AND rewrite.rulename <> '_RETURN'), '')
           || coalesce((SELECT string_agg(' ' || attribute.attname || ' default ' || pg_get_expr(attrdef.adbin, class.oid),
                                          '' ORDER BY attribute.attname)
                        FROM pg_attrdef AS attrdef
                        JOIN pg_attribute AS attribute
                            ON (attribute.attrelid, attribute.attnum) = (attrdef.adrelid, attrdef.adnum)
                        WHERE attrdef.adrelid = class.oid), '')
    FROM pg_class AS class JOIN place ON class.relnamespace = place.oid
    WHERE class.relkind IN ('v', 'm') AND NOT EXISTS (
        SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = class.oid AND deptype = 'e')
"""  # noqa: S608  # a constant

_PARTS = (
    *(_TABLE, _COLUMN, _TYPE, _CONSTRAINT, _INDEX, _SEQUENCE),
    *(_TRIGGER, _RULE, _POLICY, _INHERITANCE, _FUNCTION, _VIEW),
)

OBJECTS = _TABLES + _TYPES + "\nUNION ALL\n".join(f"({part})" for part in _PARTS) + "\nORDER BY 1, 2, 3"
"""Gives kind, table, name and definition; takes ``schema`` and ``tables``. Functions and views have an empty table."""

DESCENDANTS = """
    WITH RECURSIVE below AS (
        SELECT class.oid FROM pg_class AS class
        WHERE class.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND class.relname = ANY (%(tables)s)
        UNION
        SELECT inherits.inhrelid FROM pg_inherits AS inherits JOIN below ON below.oid = inherits.inhparent
    )
    SELECT class.relname FROM pg_class AS class JOIN below ON below.oid = class.oid
    WHERE class.relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND class.relkind IN ('r', 'p')
"""
"""Gives the tables with their partitions and children in the same schema."""
