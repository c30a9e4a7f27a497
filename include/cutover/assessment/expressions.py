"""Translates conditions of the target's catalog into SQLite, where both give them the same meaning.

PostgreSQL prints a CHECK or the condition of a partial index in one normal form, with all brackets and casts. This module
translates the common part: comparisons of columns with constants, lists, NULL, AND, OR, NOT, lengths, arithmetic with whole
numbers. It refuses everything else, and the assessment reports it as not assessed. Text is compared for equality only: its
order depends on the target's collation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import apsw

from include.cutover.assessment.columns import TEXTS
from include.cutover.copying.conversion import TargetColumn
from include.cutover.decisions.decided_snapshot import text_encoding
from include.cutover.source.schema import quote

LOWER, UPPER = "cutover_lower", "cutover_upper"

_TOKEN = re.compile(
    r"\s+|(?P<string>'(?:[^']|'')*')|(?P<number>\d+(?:\.\d+)?)|(?P<quoted>\"(?:[^\"]|\"\")*\")|(?P<word>[^\W\d][\w$]*)"
    r"|(?P<sign>::|<=|>=|<>|[=<>+\-*%()\[\],])"
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_WHOLE = frozenset({"smallint", "integer", "bigint"})
_NUMBERS = frozenset({"numeric", "double precision"})
_FAMILIES = {"int2": "whole", "int4": "whole", "int8": "whole", "numeric": "number", "float8": "number", "bool": "bool"}
_BITS = {"int2": 16, "int4": 32, "int8": 64, "smallint": 16, "integer": 32, "bigint": 64}


class Untranslatable(Exception):
    """The expression holds something that SQLite does not have or treats differently."""


class _Term(NamedTuple):
    """SQL and the kind of its value: whole, number, text, bool, enum, literal, null, list or other."""

    sql: str
    family: str
    items: tuple[_Term, ...] = ()  # of a list
    bits: int = 32  # of PostgreSQL's type, where it is whole


class Translated(NamedTuple):
    """An expression for SQLite.

    Attributes:
        sql: The expression.
        columns: Columns that it reads.
        defined: Conditions without which PostgreSQL raises an error, such as overflow or division by zero. They may be NULL.
    """

    sql: str
    columns: tuple[str, ...]
    defined: tuple[str, ...]


def prepare(connection: apsw.Connection) -> None:
    """Register the functions that translated expressions call."""
    encoding = text_encoding(connection)

    def lower(*arguments: Any) -> str:
        return str(arguments[0].decode(encoding, "replace").lower())

    def upper(*arguments: Any) -> str:
        return str(arguments[0].decode(encoding, "replace").upper())

    connection.create_scalar_function(LOWER, lower, 1, deterministic=True)
    connection.create_scalar_function(UPPER, upper, 1, deterministic=True)


def translated(expression: str, columns: Mapping[str, TargetColumn]) -> Translated:
    """Translate an expression for SQLite.

    Args:
        expression: The expression as ``pg_get_expr`` or ``pg_get_indexdef`` writes it.
        columns: Columns that it may read; others, such as those with a collation of their own, are refused.

    Raises:
        Untranslatable: When SQLite does not have it or treats it differently.
    """
    parser = _Parser(expression, columns)
    term = parser.condition()
    parser.end()
    return Translated(term.sql, tuple(sorted(parser.used)), tuple(parser.defined))


class _Parser:
    def __init__(self, expression: str, columns: Mapping[str, TargetColumn]) -> None:
        self._columns = columns
        self._tokens: list[tuple[str, str]] = []
        self._at = 0
        self.used: set[str] = set()
        self.defined: list[str] = []
        position = 0
        while position < len(expression):
            match = _TOKEN.match(expression, position)
            if match is None:
                raise Untranslatable(expression[position])
            if match.lastgroup:
                self._tokens.append((match.lastgroup, match[0]))
            position = match.end()

    # --- tokens

    def _word(self) -> str:
        """Return the next token as a keyword, without consuming it; empty at the end."""
        return self._tokens[self._at][1].upper() if self._at < len(self._tokens) else ""

    def _take(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise Untranslatable("the end")
        self._at += 1
        return self._tokens[self._at - 1]

    def _took(self, *words: str) -> bool:
        """Consume these words when they come next."""
        following = [text.upper() for _, text in self._tokens[self._at : self._at + len(words)]]
        if following != list(words):
            return False
        self._at += len(words)
        return True

    def _need(self, word: str) -> None:
        if not self._took(word):
            raise Untranslatable(f"{self._word()} instead of {word}")

    def end(self) -> None:
        """Refuse tokens after the end of the expression."""
        if self._at < len(self._tokens):
            raise Untranslatable(self._word())

    # --- the grammar, weakest first

    def condition(self) -> _Term:
        """Translate the longest condition that starts here."""
        term = self._all_of()
        while self._took("OR"):
            term = _Term(f"({_truth(term)} OR {_truth(self._all_of())})", "bool")
        return term

    def _all_of(self) -> _Term:
        term = self._negated()
        while self._took("AND"):
            term = _Term(f"({_truth(term)} AND {_truth(self._negated())})", "bool")
        return term

    def _negated(self) -> _Term:
        if self._took("NOT"):
            return _Term(f"(NOT {_truth(self._negated())})", "bool")
        return self._tested()

    def _tested(self) -> _Term:
        term = self._compared()
        while self._took("IS"):
            no = "NOT " if self._took("NOT") else ""
            if self._took("NULL"):
                term = _Term(f"({term.sql} IS {no}NULL)", "bool")
            elif self._word() in ("TRUE", "FALSE"):
                term = _Term(f"({_truth(term)} IS {no}{self._take()[1]})", "bool")
            elif self._took("DISTINCT", "FROM"):
                term = self._comparison(term, f"IS {no}DISTINCT FROM", self._compared())
            else:
                raise Untranslatable(f"IS {self._word()}")
        return term

    def _compared(self) -> _Term:
        term = self._sum()
        while self._word() in ("=", "<>", "<", ">", "<=", ">="):
            operator = self._take()[1]
            if (operator == "=" and self._took("ANY")) or (operator == "<>" and self._took("ALL")):
                self._need("(")
                others = self._postfix()
                self._need(")")
                term = self._listed(term, operator, others)
            else:
                term = self._comparison(term, operator, self._sum())
        return term

    def _listed(self, term: _Term, operator: str, others: _Term) -> _Term:
        if others.family != "list" or not others.items:
            raise Untranslatable("a list that is not written out")
        pairs = [self._comparison(term, operator, item).sql for item in others.items]
        return _Term(f"({(' OR ' if operator == '=' else ' AND ').join(pairs)})", "bool")

    def _comparison(self, left: _Term, operator: str, right: _Term) -> _Term:
        families = {left.family, right.family}
        equality = operator in ("=", "<>") or operator.endswith("FROM")
        numbers = families <= {"whole", "number"}
        same = families <= {"text", "literal"} or families <= {"enum", "literal"} or families == {"bool"}
        if not numbers and not (same and equality):
            raise Untranslatable(f"{left.family} {operator} {right.family}")
        return _Term(f"({left.sql} COLLATE BINARY {operator} {right.sql})", "bool")

    def _sum(self) -> _Term:
        term = self._product()
        while self._word() in ("+", "-"):
            term = self._arithmetic(term, self._take()[1], self._product())
        return term

    def _product(self) -> _Term:
        term = self._signed()
        while self._word() in ("*", "%"):
            term = self._arithmetic(term, self._take()[1], self._signed())
        return term

    def _arithmetic(self, left: _Term, operator: str, right: _Term) -> _Term:
        if {left.family, right.family} != {"whole"}:  # PostgreSQL's numeric is exact, and SQLite's REAL is not
            raise Untranslatable(f"{left.family} {operator} {right.family}")
        if operator == "%":
            self.defined.append(f"{right.sql} <> 0")
        return self._within(f"({left.sql} {operator} {right.sql})", max(left.bits, right.bits))

    def _within(self, text: str, bits: int) -> _Term:
        """Return a whole number that PostgreSQL computes in a type of so many bits."""
        self.defined.append(f"{text} BETWEEN {-(2 ** (bits - 1))} AND {2 ** (bits - 1) - 1}")
        return _Term(text, "whole", bits=bits)

    def _signed(self) -> _Term:
        if self._took("-"):
            term = self._signed()
            if term.family not in ("whole", "number"):
                raise Untranslatable(f"- {term.family}")
            text = f"(- {term.sql})"
            return self._within(text, term.bits) if term.family == "whole" else _Term(text, term.family)
        return self._postfix()

    def _postfix(self) -> _Term:
        term = self._primary()
        while self._took("::"):
            term = self._cast(term, self._type())
        return term

    def _type(self) -> str:
        kind, text = self._take()
        if kind not in ("word", "quoted"):
            raise Untranslatable(text)
        name = text
        for rest in (("VARYING",), ("PRECISION",)):
            if self._took(*rest):
                name += f" {rest[0].lower()}"
        if self._word() == "(":
            raise Untranslatable("a cast to a length")
        return f"{name}[]" if self._took("[", "]") else name

    def _cast(self, term: _Term, name: str) -> _Term:
        if name.endswith("[]") and term.family == "list":
            return _Term("", "list", tuple(self._cast(item, name[:-2]) for item in term.items))
        if name in ("text", "character varying") and term.family in ("text", "literal"):
            return term
        if name in _WHOLE | _NUMBERS:
            family = "whole" if name in _WHOLE else "number"
            if term.family == "literal" and _NUMBER.fullmatch(term.sql[1:-1]):
                return self._cast(_number(term.sql[1:-1]), name)
            if term.family == "whole" and family == "whole":
                return self._within(term.sql, _BITS[name]) if _BITS[name] < term.bits else term._replace(bits=_BITS[name])
            if term.family == "whole" or (term.family == "number" and family == "number"):
                return _Term(term.sql, family)
        if term.family == "literal" and any(column.is_enum and column.type == name for column in self._columns.values()):
            return _Term(term.sql, "enum")
        if term.family == "null":
            return term
        raise Untranslatable(f"a cast to {name}")

    def _primary(self) -> _Term:
        if self._took("("):
            term = self.condition()
            self._need(")")
            return term
        if self._took("ARRAY", "["):
            items = [self.condition()]
            while self._took(","):
                items.append(self.condition())
            self._need("]")
            return _Term("", "list", tuple(items))
        kind, text = self._take()
        if kind == "string":
            return _Term(text, "literal")
        if kind == "number":
            return _number(text)
        if kind == "word" and text.upper() in ("TRUE", "FALSE"):
            return _Term(text, "bool")
        if kind == "word" and text.upper() == "NULL":
            return _Term("NULL", "null")
        if kind == "word" and self._took("("):
            return self._function(text.lower())
        name = text[1:-1].replace('""', '"') if kind == "quoted" else text
        if kind not in ("word", "quoted") or name not in self._columns:
            raise Untranslatable(text)
        return self._column(name)

    def _column(self, name: str) -> _Term:
        column = self._columns[name]
        self.used.add(name)
        family = _FAMILIES.get(column.base, "text" if column.base in TEXTS - {"bpchar"} else "other")
        bits = _BITS.get(column.base, 32)
        return _Term(f"(+{quote(name)} COLLATE BINARY)", "enum" if column.is_enum else family, bits=bits)

    def _function(self, name: str) -> _Term:
        if name == "trim":
            sides = {"BOTH": "btrim", "LEADING": "ltrim", "TRAILING": "rtrim"}
            name = next((function for side, function in sides.items() if self._took(side, "FROM")), name)
        arguments = [self.condition()]
        while self._took(","):
            arguments.append(self.condition())
        self._need(")")
        families = [term.family for term in arguments]
        first = arguments[0].sql
        if families == ["text"]:
            if name in ("length", "char_length", "character_length"):
                return _Term(f"length({first})", "whole")
            if name == "octet_length":
                return _Term(f"octet_length({first})", "whole")
            if name in ("btrim", "ltrim", "rtrim"):
                return _Term(f"{name.removeprefix('b')}({first}, ' ')", "text")
            if name in ("lower", "upper"):
                ours = LOWER if name == "lower" else UPPER
                return _Term(f"CASE WHEN {first} IS NOT NULL THEN {ours}(CAST({first} AS BLOB)) END", "text")
        if name == "abs" and families == ["number"]:
            return _Term(f"abs({first})", "number")
        if name == "abs" and families == ["whole"]:  # SQLite's own abs() fails for the smallest integer
            return self._within(f"(CASE WHEN {first} < 0 THEN - {first} ELSE {first} END)", arguments[0].bits)
        if name == "coalesce" and len(arguments) > 1 and (set(families) <= {"whole", "number"} or len(set(families)) == 1):
            text = f"coalesce({', '.join(term.sql for term in arguments)})"
            return _Term(text, max(families, key=len), bits=max(term.bits for term in arguments))
        raise Untranslatable(name)


def _number(text: str) -> _Term:
    """Return a constant; PostgreSQL uses the smallest of integer, bigint and numeric that holds it."""
    if "." in text or not -(2**63) <= int(text) < 2**63:
        return _Term(text, "number")
    return _Term(text, "whole", bits=32 if -(2**31) <= int(text) < 2**31 else 64)


def _truth(term: _Term) -> str:
    if term.family not in ("bool", "null"):
        raise Untranslatable(f"{term.family} as a condition")
    return term.sql
