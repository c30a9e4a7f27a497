"""Names of people and the auth manager's ids: what is known, and what is said about who is not."""

from __future__ import annotations

import pytest

from include.cutover.people.identities import VARIABLE, Identities, check
from include.cutover.people.roles import Accounts
from include.cutover.plan.file import load_plan

FAB = "FabAuthManager"


def test_under_the_simple_auth_manager_the_id_is_the_name() -> None:
    known = Identities.of_simple("lead:op, observer:viewer,communicator:viewer")
    assert known.ids == {"lead": "lead", "observer": "observer", "communicator": "communicator"}
    assert check(load_plan("ward_ops"), known).outcome == "passed"
    assert Identities.of_simple("").ids == {}


def test_numbers_and_texts_are_ids() -> None:
    assert Identities.of_variable('{"lead": 7, "observer": "a-b-c"}', FAB).ids == {"lead": "7", "observer": "a-b-c"}


def test_person_without_an_account_fails_the_check() -> None:
    found = check(load_plan("ward_ops"), Identities.of_variable('{"lead": "1", "observer": "2"}', FAB))
    assert found.outcome == "failed"
    assert "communicator (communicator)" in found.found and "lead" not in found.found
    assert "roles apply --plan ward_ops" in found.do
    elsewhere = check(load_plan("ward_ops"), Identities.of_variable('{"lead": "1"}', "KeycloakAuthManager"))
    assert VARIABLE in elsewhere.do and "KeycloakAuthManager" in elsewhere.do


@pytest.mark.parametrize("text", [None, "", "[]", "7", "no JSON", '{"lead": ["1"]}', '{"lead": null}'])
def test_variable_that_is_not_a_map_gives_no_ids(text: str | None) -> None:
    known = Identities.of_variable(text, FAB)
    assert known.ids == {}
    assert "missing" in known.where or "not a JSON object" in known.where
    assert check(load_plan("ward_ops"), known).outcome == "failed"


def test_accounts_are_equal_after_a_round_trip_through_json() -> None:
    accounts = Accounts.of([load_plan("ward_ops")])
    assert Accounts.from_json(accounts.to_json()) == accounts
    assert list(accounts.users) == ["lead", "observer", "communicator"]
    assert accounts.users["lead"] == ("cutover_ward_ops_lead",)
