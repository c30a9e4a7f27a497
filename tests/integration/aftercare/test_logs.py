"""The services' logs since go-live."""

from __future__ import annotations

import time

import pytest

from include.cutover.aftercare import record as aftercare_record
from include.cutover.steps.aftercare.look import look
from include.cutover.steps.call import NotYet
from tests.integration.aftercare.shop import SECRET, Shop, bad, found


def test_errors_in_a_log_are_found_once_without_secrets_and_only_since_go_live(shop: Shop) -> None:
    (shop.folder / ".env").write_text(f"DATABASE_PASSWORD={SECRET}\n")
    shop.go_live(minutes=1)
    with shop.log.open("a") as log:
        log.write("all is well\n")
        log.write(f"ERROR psycopg.OperationalError: connection refused for {SECRET}, password=hunter2hunter2\n")
        log.write("ERROR (psycopg.errors.UniqueViolation) [parameters: {'token': 'abc', 'name': 'Nino'}]\n")
        log.write("half a line, psycopg.Error")
    event = shop.first_look()
    assert bad(event) == {"aftercare_log_api": "failed"}
    told = found(event, "aftercare_log_api")
    assert told.startswith("2 of 3 new lines") and "connection refused" in told
    for hidden in (SECRET, "hunter2", "Nino", "before go-live"):
        assert hidden not in told
    with shop.log.open("a") as log:
        log.write(" and the other half\nnothing else\n")
    time.sleep(1)
    with pytest.raises(NotYet):
        shop.do("look", look)
    second = aftercare_record.looks(shop.evidence.events())[-1]
    assert found(second, "aftercare_log_api").startswith("1 of 2 new lines"), "each line once, and whole"
    shop.log.rename(shop.log.with_suffix(".1"))
    shop.log.write_text("a new log\n")
    time.sleep(1)
    with pytest.raises(NotYet):
        shop.do("look", look)
    third = aftercare_record.looks(shop.evidence.events())[-1]
    assert bad(third) == {} and "replaced by a new one" in found(third, "aftercare_log_api")
    shop.log.unlink()
    time.sleep(1)
    with pytest.raises(NotYet):
        shop.do("look", look)
    assert bad(aftercare_record.looks(shop.evidence.events())[-1]) == {"aftercare_log_api": "unknown"}
