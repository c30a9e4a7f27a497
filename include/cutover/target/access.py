"""Gives the roles in the target the rights of the plan. The statements are in ``access_statements``."""

from __future__ import annotations

from include.cutover.errors import StepFailed
from include.cutover.plan.model import Plan
from include.cutover.target.access_checks import object_checks
from include.cutover.target.access_statements import object_statements, role_statements
from include.cutover.target.ledger import Guard
from include.cutover.target.session import session


def apply(conninfo: str, plan: Plan, *, roles: bool, guard: Guard | None = None) -> list[str]:
    """Run the statements that are missing, all in one transaction, and return them. Safe to run again.

    Args:
        conninfo: Of the tables' owner or the pipeline; with ``roles``, of an administrator.
        plan: Names the roles.
        roles: Also make the roles themselves.
        guard: Called first in the transaction.

    Raises:
        StepFailed: When the rights are not what they should be afterwards.
        Refused: When the session's role lacks the right to do that.
        LeaseLost: From ``guard``.
    """
    with session(conninfo, plan.target_schema) as connection, connection.transaction():
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
