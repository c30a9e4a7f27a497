"""Compares the target's structure, rules, rights and persistence with their state when the services started on it.

Rows change in that time, and the application may make tables of its own: new objects are named, and are no fault.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from include.cutover.aftercare.record import BASELINE
from include.cutover.checks import Check
from include.cutover.errors import CannotCheck
from include.cutover.evidence.record import Evidence
from include.cutover.target import catalog_state, harmless_changes
from include.cutover.target.catalog_state import Change, Key, State
from include.cutover.target.session import session

NAME, TITLE = "aftercare_structure", "Structure, rules, rights and persistence are as at go-live"
FILE = "target_live.json"
"""In the cutover's evidence: the state of the target right before the services started on it."""

_DO = "Find out who changed the target, see the server's log; undo it, or record in the evidence that it was intended."
_SECONDS = 60
_SHOWN = 10


def state(conninfo: str, schema: str, role: str | None) -> dict[Key, str]:
    """Read the state of the target.

    Args:
        conninfo: The target, with the pipeline's role.
        schema: The plan's target schema.
        role: The application's role; None where the plan moves no application.

    Raises:
        Unreachable, StepFailed: See ``target.session``.
    """
    with session(conninfo, schema, settings={"statement_timeout": f"{_SECONDS}s"}) as connection:
        return catalog_state.read(connection, schema, role)


def as_text(found: State) -> str:
    """Return the state for the evidence."""
    return json.dumps(catalog_state.as_rows(found), ensure_ascii=False, indent=0)


def at_go_live(cutover: Evidence) -> dict[Key, str]:
    """Return the state that was recorded at go-live.

    Raises:
        CannotCheck: When none was recorded, or the file is not the recorded one.
    """
    taken, saved = cutover.last(BASELINE), cutover.last("file", name=FILE)
    try:
        data = (cutover.folder / FILE).read_bytes()
    except FileNotFoundError:
        data = b""
    if not (taken or {}).get("structure") or saved is None or saved["sha256"] != hashlib.sha256(data).hexdigest():
        raise CannotCheck(
            "the state of the target at go-live is not known",
            where=str(cutover.folder / FILE),
            expected="the file that start_services recorded",
            do="Compare the schema with the plan's SQL by hand.",
        )
    return catalog_state.from_rows(json.loads(data))


def check(before: State, after: State, schema: str) -> Check:
    """Compare two states; harmless changes and new objects are named, and pass.

    Args:
        before: At go-live.
        after: Now.
        schema: The plan's target schema.
    """
    acting = harmless_changes.acting_roles(before, after)
    # A guard that a reader held at go-live is disabled, and somebody drops it later.
    changes = [change for change in catalog_state.changes(before, after) if change.key[0] != catalog_state.GUARD]
    fine = [change for change in changes if _is_new(change, before) or harmless_changes.is_harmless(change, acting)]
    wrong = [str(change) for change in changes if change not in fine]
    found = _listed(wrong) or _listed(harmless_changes.descriptions(fine) or [str(change) for change in fine])
    return Check(
        NAME, TITLE, "failed" if wrong else "passed", "no change", found or "none", _DO if wrong else "", f"schema {schema}"
    )


def _is_new(change: Change, before: Mapping[Key, str]) -> bool:
    """Report whether the change belongs to an object that did not exist, and acts on none that did."""
    kind, thing, name = change.key
    if kind == catalog_state.RELATION and change.before is not None:
        return _has_more_partitions(change)
    if change.before is not None:
        return False
    if kind in (catalog_state.RELATION, "extension", "type"):
        return True
    if kind == "definition of the inheritance" and str(change.after).startswith("partition FOR VALUES"):
        return str(change.after).endswith(")")
    if kind == "function" or (kind.startswith("definition of the") and not thing):
        # An overload of a function that was there could be called in its place.
        bare = (thing or name).partition("(")[0]
        return not any((key[1] or key[2]).partition("(")[0] == bare for key in before if key[0] == kind)
    if kind == catalog_state.RIGHTS:
        place, _, owner = thing.partition(" ")
        return (
            place != "default"
            and bool(owner)
            and not _known(owner.rpartition(".")[0] if place == "column" else owner, before)
        )
    return kind not in _BESIDE_TABLES and bool(thing) and not _known(thing, before)


_BESIDE_TABLES = {
    *(catalog_state.ROLE, catalog_state.LOGIN, catalog_state.SETTING, catalog_state.ACTING),
    *("database", "schema", "publication", "subscription", "event trigger"),
}


def _known(thing: str, before: Mapping[Key, str]) -> bool:
    """Report whether a relation, a function or a type of that name was there."""
    return any((kind, thing, "") in before for kind in (catalog_state.RELATION, "function", "type"))


def _has_more_partitions(change: Change) -> bool:
    before, after = change.fields_before, change.fields_after
    more = set(after.get("children") or ()) >= set(before.get("children") or ())
    return before.get("kind") == "p" and change.fields_changed == {"children"} and more


def _listed(texts: list[str]) -> str:
    return "; ".join([*texts[:_SHOWN], *([f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else [])])
