"""A target that was changed before the proof: the run goes back, and the report names the object."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.exploring.arena import Arena
from tests.exploring.site import Site


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Arena() as made:
        yield made


@pytest.fixture
def site(arena: Arena, request: pytest.FixtureRequest) -> Iterator[Site]:
    with arena.site(request.node.name) as made:
        yield made


def red(site: Site) -> dict[str, str]:
    return {
        check["name"]: check["found"]
        for event in site.of("one").events()
        if event["event"] == "step.end" and event["step"] == "validate_foreign_keys"
        for check in event.get("checks", ())
        if check["outcome"] != "passed"
    }


def test_a_rule_that_drops_the_applications_writes_never_goes_live(site: Site) -> None:
    run = site.trigger("one")
    site.reach(run, "verify.check_tables")
    with psycopg.connect(site.conninfo) as connection:
        found = connection.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'books'").fetchone()
        assert found is not None
        connection.execute(f'CREATE RULE gone AS ON INSERT TO "{found[0]}".books DO INSTEAD NOTHING'.encode())
    site.world.walk()
    sealed = site.of("one").sealed
    assert sealed and sealed["outcome"] == "rolled_back", site.trace[-20:]
    assert set(red(site)) == {"structure_rule", "writes_insert"}
    assert red(site)["structure_rule"].startswith("books.gone is not in the plan")
    assert "books: cannot perform INSERT RETURNING" in red(site)["writes_insert"]


def test_a_setting_that_switches_triggers_and_foreign_keys_off_never_goes_live(site: Site) -> None:
    run = site.trigger("one")
    site.reach(run, "verify.check_tables")
    with psycopg.connect(site.conninfo) as connection:
        connection.execute(f'ALTER ROLE "{site.role}" SET session_replication_role = replica'.encode())
    site.world.walk()
    sealed = site.of("one").sealed
    assert sealed and sealed["outcome"] == "rolled_back", site.trace[-20:]
    assert set(red(site)) == {"writes_settings"}
