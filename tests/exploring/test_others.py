"""The deeds of others do what they say; else a schedule with them would prove nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import psycopg
import pytest

from include.cutover.source import fence
from tests.exploring.arena import Arena
from tests.exploring.others import HARMLESS, ON_ROWS, ON_STRUCTURE, Others
from tests.exploring.shop import PROGRAMS
from tests.exploring.site import Site


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Arena() as made:
        yield made


@pytest.fixture(params=[False, True], ids=["delete", "wal"])
def site(arena: Arena, request: pytest.FixtureRequest) -> Iterator[Site]:
    with arena.site(f"others-{request.param}", wal=request.param) as made:
        yield made


@pytest.fixture
def others(site: Site) -> Iterator[Others]:
    made = Others(site, random.Random(3))
    yield made
    made.close()


def titles(site: Site, program: str) -> list[str]:
    return [line["title"] for line in site.shop.journal.read() if line["what"] == "written" and line["program"] == program]


def test_another_program_writes_where_sqlite_lets_it_and_only_there(site: Site, others: Others) -> None:
    site.shop.stop(PROGRAMS)
    others.write()
    assert len(titles(site, "rogue")) == 1
    fence.raise_fence(site.shop.database, run_id="one")
    others.write()
    assert len(titles(site, "rogue")) == 1, "the fence holds"
    others.break_fence()
    others.write()
    assert 2 <= len(titles(site, "rogue")) <= 3
    assert not site.shop.fenced


def test_a_reboot_brings_the_services_up_with_what_lies_there(site: Site, others: Others) -> None:
    before = {name: len(titles(site, name)) for name in PROGRAMS}
    others.hold()
    assert others.holders
    others.reboot()
    assert not others.holders
    assert sorted(site.shop.up()) == sorted(PROGRAMS)
    assert all(len(titles(site, name)) > before[name] for name in PROGRAMS), "they write at once"
    site.shop.stop(PROGRAMS)
    fence.raise_fence(site.shop.database, run_id="one")
    others.reboot()
    lines = [line for line in site.shop.journal.read() if line["what"] in ("written", "refused")]
    assert {line["program"]: line["what"] for line in lines} == dict.fromkeys(PROGRAMS, "refused"), "behind the fence"


def test_a_file_that_is_away_comes_back_and_an_application_may_make_another(site: Site, others: Others) -> None:
    others.move_away()
    assert others.away is None, "not while programs write to it"
    site.shop.stop(PROGRAMS)
    others.move_away()
    assert not site.shop.database.exists()
    site.shop.creates = True
    site.shop.close()
    begun = time.time()
    site.shop.open()
    site.shop.await_writes(site.shop.up(), begun)
    others.put_back()
    assert others.away is not None, "its place is taken"
    assert any(line.get("fresh") for line in site.shop.journal.read())
    site.shop.stop(PROGRAMS)
    others.clear_place()
    others.put_back()
    site.shop.start(PROGRAMS)
    last = {line["program"]: line["fresh"] for line in site.shop.journal.read() if line["what"] == "written"}
    assert last == dict.fromkeys(PROGRAMS, False)


def test_every_statement_of_an_administrator_changes_a_target_that_nothing_guards(arena: Arena) -> None:
    with arena.site("administrator") as site:
        run = site.trigger("one")
        site.reach(run, "verify.validate_foreign_keys")
        others = Others(site, random.Random(3))
        schema = site.query("SELECT nspname FROM pg_namespace WHERE nspname = 'lending'")
        assert schema
        with psycopg.connect(site.conninfo, autocommit=True) as connection:
            connection.execute("UPDATE cutover.lease SET run_id = NULL")  # the guard refuses nothing now
        others.prepare()
        assert others.prepared
        others.end_prepared(commit=False)
        assert not others.prepared
        for statement in (*ON_ROWS, *HARMLESS, *ON_STRUCTURE):
            others.change_with(statement, replica=statement not in HARMLESS)
        refused = [line for line in site.trace if line.startswith("on the target") and not line.endswith(": done")]
        assert [line for line in refused if "at all" not in line and "already exists" not in line] == []
