"""Checks JSON text as jsonb does."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any

# numeric's own limits: digits before and after the point
_MOST_DIGITS, _MOST_FRACTION = 131_072, 16_383


def json_fault(text: str) -> tuple[str, bool]:
    """Return why jsonb does not take the text, empty where it does, and whether an object in it repeats a key."""
    twice = False

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        kept = dict(pairs)
        twice = twice or len(kept) != len(pairs)
        return kept

    decoder = json.JSONDecoder(object_pairs_hook=keep, parse_float=_number, parse_int=_number, parse_constant=_no_constant)
    try:
        json.dumps(decoder.decode(text), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "it holds half a surrogate pair", twice
    except _OutOfRange:
        return "a number in it is beyond numeric", twice
    except RecursionError:
        return "it is nested too deeply", twice
    except ValueError:
        return "it is not valid JSON", twice
    return "", twice


class _OutOfRange(ValueError):
    pass


def _number(text: str) -> str:
    """Return the text of a number that numeric holds; raise for any other."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise _OutOfRange from None
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > _MOST_FRACTION or (value and value.adjusted() >= _MOST_DIGITS):
        raise _OutOfRange
    return text


def _no_constant(name: str) -> Any:
    raise ValueError(name)
