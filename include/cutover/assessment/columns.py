"""Pairs each column of the source with that of the target, and makes an SQL condition that is true for valid values.

The conditions run inside SQLite over every row, so they are made for speed: they accept only the usual forms. ``values``
checks the other values exactly, one by one. A condition may therefore be false for a valid value, which costs time, but
never true for an invalid one. The conditions check neither the encoding of text and its NUL characters nor the content of
JSON: ``scan`` checks them for whole blocks of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import apsw

from include.cutover.assessment.target import TargetTable
from include.cutover.copying.conversion import Conversion, TargetColumn, conversion
from include.cutover.errors import Refused
from include.cutover.plan.tables import ColumnDecision
from include.cutover.source.schema import SourceColumn, TableShape, affinity, quote

INTEGERS = {"int2": (-(2**15), 2**15 - 1), "int4": (-(2**31), 2**31 - 1), "int8": (-(2**63), 2**63 - 1)}
TEXTS = frozenset({"text", "varchar", "bpchar"})
JSONS = frozenset({"json", "jsonb"})
TIMES = frozenset({"timestamptz", "timestamp", "date", "time"})
EXACT_INTEGERS = 2**53  # a float8 holds every integer up to here
INDEX_ENTRY = 2_700  # bytes, and some more for the rest of the entry
CERTAIN_REAL = 10**15  # below it a real has digits to spare

_TYPE_NAMES = {
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "bool": "boolean",
    "float8": "double precision",
    "varchar": "character varying",
    "bpchar": "character",
    "timestamptz": "timestamp with time zone",
    "timestamp": "timestamp without time zone",
    "time": "time without time zone",
}
_LARGEST_REAL = "1.7976931348623157e308"


@dataclass(frozen=True)
class AssessedColumn:
    """A column of the source and the column of the target that it goes to.

    Attributes:
        name: Name of the column.
        source: The column of the source.
        target: The column of the target.
        conversion: The copy's conversion between them.
        decision: The plan's decision about its values.
        labels: Labels of the target's enumeration.
        accepted: SQL condition, never NULL: true for a valid value, except for the checks on blocks of rows.
        is_key: It is part of the target's primary key.
        is_fixed: It is part of the key of a source table WITHOUT ROWID, which a decision cannot change.
        index_limit: Bytes that fit into every btree index of the column; None where it has none.
        secret: Its content is never shown.
    """

    name: str
    source: SourceColumn
    target: TargetColumn
    conversion: Conversion
    decision: ColumnDecision | None
    labels: tuple[str, ...]
    accepted: str
    is_key: bool
    is_fixed: bool
    index_limit: int | None
    secret: bool

    @property
    def is_text(self) -> bool:
        """True when its text must be valid in the database's encoding."""
        return self.target.base in TEXTS

    @property
    def is_json(self) -> bool:
        """True when its text must be valid jsonb."""
        return self.target.base in JSONS

    @property
    def makes_reals(self) -> bool:
        """True when SQLite turns integers into reals on storing."""
        return affinity(self.source.declared_type) == "REAL"


def assessed_column(
    source: SourceColumn,
    table: TargetTable,
    decision: ColumnDecision | None,
    *,
    secret: bool,
    bytes_per_letter: int = 1,
    is_rowid: bool = False,
    is_fixed: bool = False,
) -> AssessedColumn:
    """Pair a column of the source with the target's column of the same name.

    Args:
        source: The column of the source.
        table: The table of the target.
        decision: The plan's decision about its values.
        secret: Its content is never shown.
        bytes_per_letter: Bytes of an ASCII letter in the database's encoding: 1, or 2 in UTF-16.
        is_rowid: It is the INTEGER PRIMARY KEY: SQLite itself allows only integers.
        is_fixed: It is part of the key of a source table WITHOUT ROWID.

    Raises:
        Refused: When the target's type cannot hold the values unchanged.
    """
    target = table.columns[source.name]
    way = conversion(table.name, source, target)
    name, labels = quote(source.name), table.labels.get(source.name, ())
    # In a table that is STRICT a column declared ANY has no affinity.
    stored_as = "BLOB" if source.declared_type.upper() == "ANY" else affinity(source.declared_type)
    fine = _fine(name, stored_as, target, labels, bytes_per_letter)
    if fine is None:
        raise Refused(
            "this type cannot hold the values unchanged",
            where=f"{table.name}.{source.name}",
            found=target.type,
            do="Change the type in the plan's SQL.",
        )
    if is_rowid and target.base in INTEGERS:
        fine = "true" if target.base == "int8" else _between(f"+{name}", INTEGERS[target.base])
    index_limit = _index_limit(source.name, table)
    if index_limit is not None:
        fine += f" AND octet_length({name}) <= {index_limit if bytes_per_letter == 1 else 2 * index_limit // 3}"
    condition = f"({fine}) IS TRUE" if target.not_null and not is_rowid else f"({fine}) IS NOT FALSE"
    return AssessedColumn(
        source.name,
        source,
        target,
        way,
        decision,
        labels,
        "true" if fine == "true" else condition,
        source.name in table.primary_key,
        is_fixed,
        index_limit,
        secret,
    )


def _index_limit(name: str, table: TargetTable) -> int | None:
    """Return the bytes that fit into every btree index of the column, if all columns of an index are equally long."""
    limits = []
    for index in table.indexes if _longest(table.columns[name]) else ():
        used = {
            column
            for column in table.columns
            for part in index.parts
            if column == part.column or (part.column is None and column in part.definition)
        }
        if index.method == "btree" and name in used:
            limits.append(INDEX_ENTRY // max(1, sum(_longest(table.columns[column]) > 100 for column in used)))
    return min(limits) if limits and min(limits) < _longest(table.columns[name]) else None


def _longest(target: TargetColumn) -> int:
    """Return the bytes of the longest value of a text, JSON or bytea type; 0 for other types."""
    if target.base in TEXTS and target.modifier > 4:
        return 4 * (target.modifier - 4)
    return 2**30 if target.base in TEXTS | JSONS | {"bytea"} else 0


def type_name(target: TargetColumn) -> str:
    """Return the type as ``format_type`` writes it, without a length; for a domain, its base type."""
    return _TYPE_NAMES.get(target.base, target.base)


def rowid_alias(conn: apsw.Connection, shape: TableShape) -> str | None:
    """Return the column that is an alias of the rowid (INTEGER PRIMARY KEY), or None."""
    if shape.rowid is None or len(shape.key) != 1:
        return None
    query = "SELECT count(*) FROM pragma_index_list(?, 'main') WHERE origin = 'pk'"
    return None if conn.execute(query, (shape.table,)).get else shape.key[0]


def all_of(conditions: Sequence[str]) -> str:
    """Join conditions by AND as a balanced tree: SQLite limits the depth of an expression."""
    return _joined([condition for condition in conditions if condition != "true"], "AND", "true")


def any_of(conditions: Sequence[str]) -> str:
    """Join conditions by OR, likewise."""
    return _joined(conditions, "OR", "false")


def _joined(conditions: Sequence[str], operator: str, nothing: str) -> str:
    if len(conditions) <= 1:
        return f"({conditions[0]})" if conditions else nothing
    half = len(conditions) // 2
    left, right = (_joined(part, operator, nothing) for part in (conditions[:half], conditions[half:]))
    return f"({left} {operator} {right})"


def _between(value: str, bounds: tuple[int, int]) -> str:
    return f"{value} BETWEEN {bounds[0]} AND {bounds[1]}"


def _fine(x: str, stored_as: str, target: TargetColumn, labels: Sequence[str], unit: int) -> str | None:
    """Return the condition, or None where the type has none; it is NULL for NULL only.

    Unary plus removes the column's affinity: otherwise '1' in a text column would equal 1. The collation is named because
    the column's own may not be available here.

    Args:
        x: The quoted name of the column.
        stored_as: Affinity of the column. INTEGER and NUMERIC turn every whole number into an integer, and none of their
            reals is minus zero; REAL cannot hold that either.
        target: The column of the target.
        labels: Labels of its enumeration.
        unit: Bytes of an ASCII letter.
    """
    base, modifier = target.base, target.modifier
    integral = stored_as in ("INTEGER", "NUMERIC")
    value = f"+{x} COLLATE BINARY"
    is_integer = f"CASE typeof({x}) WHEN 'integer' THEN true WHEN 'null' THEN NULL ELSE false END"
    if base in INTEGERS:
        whole = f"{value} = ({x} | 0)" if integral else is_integer
        return whole if base == "int8" else f"{whole} AND {_between(value, INTEGERS[base])}"
    if base == "bool":
        return f"({value}) IN (0, 1)" if integral else f"({value}) IN (0, 1) AND {is_integer}"
    if base == "float8":
        finite = f"{value} BETWEEN -{_LARGEST_REAL} AND {_LARGEST_REAL}"
        return f"{finite} AND (typeof({x}) = 'real' OR {_between(value, (-EXACT_INTEGERS, EXACT_INTEGERS))})"
    if base == "numeric":
        zero = "" if integral or stored_as == "REAL" else f" AND ({value} <> 0 OR typeof({x}) <> 'real')"
        return _numeric(x, value, modifier) + zero
    text = f"{value} >= '' AND {value} < x''"
    if base == "bytea":
        return f"{value} >= x''"
    if base in TEXTS:
        length = modifier - 4
        if base == "bpchar":
            return f"{text} AND length({x}) = {length}" if length > 0 else text
        return f"{text} AND (octet_length({x}) <= {length * unit} OR length({x}) <= {length})" if length > 0 else text
    if base == "uuid":
        digits = f"octet_length(unhex({x}, '-')) = 16"
        hyphens = f"{x} GLOB '????????-????-????-????-????????????'"
        return f"{value} < x'' AND ({digits} IS TRUE OR {x} IS NULL) AND (octet_length({x}) = {32 * unit} OR ({hyphens}))"
    if base in JSONS:
        return f"{text} AND json_valid({x}) AND instr({x}, char(0)) = 0"
    if target.is_enum:
        quoted = ", ".join("'" + label.replace("'", "''") + "'" for label in labels)
        return f"({value}) IN ({quoted})" if labels else "false"
    if base in TIMES:
        return _moment(x, value, base, unit)
    return None


def _numeric(x: str, value: str, modifier: int) -> str:
    """Accept whole numbers within the precision, and reals that read back the same after printing with the scale."""
    if modifier < 0:
        return f"{value} > -{CERTAIN_REAL} AND {value} < {CERTAIN_REAL}"
    precision = ((modifier - 4) >> 16) & 0xFFFF
    scale = (((modifier - 4) & 0x7FF) ^ 1024) - 1024  # an eleven-bit number with a sign
    limit = f"1e{min(precision - scale, 15)}"
    return f"{value} > -{limit} AND {value} < {limit} AND {value} = CAST(format('%.{max(scale, 0)}f', {x}) AS REAL)"


_DAY, _MINUTE = "????-??-??", "????-??-??[ T]??:??"

# Each pattern fixes the last digit or letter; unixepoch(), which reads digits strictly, checks the others.
_LOCAL = {
    26: f"{_MINUTE}:??.?????[0-9]",
    19: f"{_MINUTE}:?[0-9]",
    23: f"{_MINUTE}:??.??[0-9]",
    10: "????-??-?[0-9]",
}
_ZONED = {
    20: f"{_MINUTE}:??Z",
    24: f"{_MINUTE}:??.??[0-9]Z",
    27: f"{_MINUTE}:??.?????[0-9]Z",
    25: f"{_MINUTE}:?[0-9][+-]??:??",
    29: f"{_MINUTE}:??.??[0-9][+-]??:??",
    32: f"{_MINUTE}:??.?????[0-9][+-]??:??",
}
_CLOCKS = {8: "??:??:?[0-9]", 15: "??:??:??.?????[0-9]", 12: "??:??:??.??[0-9]", 5: "??:?[0-9]"}
_SHAPES = {"timestamptz": {**_LOCAL, **_ZONED}, "timestamp": _LOCAL, "date": {10: _LOCAL[10]}, "time": _CLOCKS}


def _moment(x: str, value: str, base: str, unit: int) -> str:
    # unixepoch() accepts the 30th of February and the year 0.
    day = f"substr({x}, 1, 10)"
    real_day = f"(substr({x}, 9, 2) < '29' OR date({day}) = {day}) AND {value} > '0001'"
    if base == "time":
        real_day = f"{value} < '24'"
    cases = " ".join(
        f"WHEN {length * unit} THEN {x} GLOB '{shape}' AND unixepoch({x}) IS NOT NULL AND {value} < x'' AND {real_day}"
        for length, shape in _SHAPES[base].items()
    )
    return f"CASE octet_length({x}) {cases} ELSE nullif({x} IS NULL, true) END"
