"""Tells the changes of a target that are an administrator's daily work from those that can change reads and writes.

Harmless is only what is listed here, and only where it concerns a role that the application's reads and writes do not act
with; everything else is a change. The list with its reasons: docs/decisions/0019-the-target-between-proof-and-go-live.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from include.cutover.target import catalog_state
from include.cutover.target.catalog_state import Change, State

_DEFINITION_OF_INDEX = "definition of the index"

# TRIGGER, REFERENCES and CREATE are missing: they let another role change what the application's writes do.
_FOR_OTHERS = frozenset(
    {"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "MAINTAIN", "USAGE", "EXECUTE", "CONNECT", "TEMPORARY"}
)
# PUBLIC includes the application's role: a right to write would pass the fence that a rollback raises with privileges.
_FOR_EVERYBODY = frozenset({"SELECT", "EXECUTE", "CONNECT", "TEMPORARY"})

_FIELDS_OF_OTHER_ROLES = frozenset({"valid until", "connections", "inherits", "member of", "members"})
_POWERS = ("superuser", "reaches a superuser", "passes row security", "may create roles", "replicates")

# PostgreSQL's manual, "Storage Parameters" of CREATE TABLE: where rows lie and when they are cleaned up, never which.
_STORAGE = (
    *("autovacuum_", "toast.autovacuum_", "vacuum_", "toast.vacuum_", "log_autovacuum_", "toast.log_autovacuum_"),
    *("fillfactor", "parallel_workers", "toast_tuple_target"),
)
# The manual's "Error Reporting and Logging" and "Run-time Statistics".
_SETTINGS = ("log_", "track_", "auto_explain.log_")


def acting_roles(*states: State) -> dict[str, bool]:
    """Return the roles with which the application's statements act, in any of the states.

    Returns:
        Role → True for the application's, the pipeline's and the owners; False for a role that these are only members of.
    """
    found: dict[str, bool] = {}
    for state in states:
        for (kind, role, _), text in state.items():
            if kind == catalog_state.ACTING:
                found[role] = found.get(role, False) or text == catalog_state.ITSELF
    return found


def is_harmless(change: Change, acting: Mapping[str, bool]) -> bool:
    """Report whether a change leaves everything as it is that the proof compared and the application does.

    Args:
        change: Between the proof and go-live.
        acting: From ``acting_roles``, of both moments.
    """
    kind, thing, name = change.key
    if kind == catalog_state.RIGHTS:
        return _harmless_right(change, thing, name, acting)
    if kind in (catalog_state.ROLE, catalog_state.LOGIN):
        if thing in acting:
            return kind == catalog_state.ROLE and not acting[thing] and _has_other_members(change)
        return kind == catalog_state.LOGIN or _harmless_role(change)
    if kind == catalog_state.SETTING:
        return name.lower().startswith(_SETTINGS) or not _reaches(thing, acting)
    if kind == catalog_state.RELATION:
        return _harmless_relation(change)
    if kind == "index":
        new = change.fields_after
        return change.before is None and new.get("plain") is True
    if kind == _DEFINITION_OF_INDEX:
        return change.before is None and not str(change.after).startswith("unique")
    return False


def descriptions(changes: Collection[Change]) -> list[str]:
    """Return one text for each thing that changed: an index and a grantee are several objects of the catalog."""
    return [
        str(change)
        for change in changes
        if change.key[0] != "index"
        and not (change.key[0] == catalog_state.RELATION and change.before is None)
        and not (change.key[0] in (catalog_state.ROLE, catalog_state.LOGIN) and None in (change.before, change.after))
    ]


def _harmless_right(change: Change, thing: str, grantee: str, acting: Collection[str]) -> bool:
    if grantee in acting:
        return False
    place, _, rest = thing.partition(" ")
    if place == "default":
        # Of objects that are made later. The owner stands before the letter of their kind.
        return rest.rpartition(" ")[0] not in acting
    before, after = change.rights_before, change.rights_after
    if grantee == "PUBLIC":
        allowed = _FOR_EVERYBODY | ({"USAGE"} if place != "sequence" else set())
        return before <= after and {right.rstrip("*") for right in after - before} <= allowed
    return {right.rstrip("*") for right in after - before} <= _FOR_OTHERS


def _harmless_role(change: Change) -> bool:
    """Report whether a role that does not act for the application kept its powers, or came into view without any."""
    if change.after is None:
        return True
    if change.before is None:
        return not any(change.fields_after.get(power) for power in _POWERS)
    return change.fields_changed <= _FIELDS_OF_OTHER_ROLES


def _has_other_members(change: Change) -> bool:
    """Report whether only the members of a weak role changed: they get its rights, and no power over the application's."""
    return change.fields_changed == {"members"} and not any(change.fields_after.get(power) for power in _POWERS)


def _reaches(place: str, acting: Collection[str]) -> bool:
    """Report whether a setting at that place applies to sessions of a role that acts, or of every role."""
    return place.startswith(("every role", "the server")) or any(
        place in (role, f"{role}{catalog_state.IN_THIS_DATABASE}") for role in acting
    )


def _harmless_relation(change: Change) -> bool:
    before, after = change.fields_before, change.fields_after
    if change.before is None:
        return after.get("kind") in ("i", "I") and after.get("plain index") is True
    if change.after is None or before.get("kind") not in ("r", "m"):
        return False
    if change.fields_changed != {"options"}:
        return False
    moved = set(before.get("options") or ()) ^ set(after.get("options") or ())
    return all(str(option).startswith(_STORAGE) for option in moved)
