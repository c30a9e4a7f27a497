"""The texts of the notices: only known placeholders."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from include.cutover.plan.people import Notices

NOTICES = ("start", "completion", "rollback", "cancelled", "freeze", "delay", "deadline", "aftercare", "closing")


@pytest.mark.parametrize("notice", NOTICES)
def test_an_unknown_placeholder_is_a_fault_in_every_notice(notice: str) -> None:
    assert set(NOTICES) == set(Notices.model_fields)
    texts = {name: f"{name} <lead>" for name in NOTICES}
    with pytest.raises(ValidationError, match=r"unknown placeholder <tme>; allowed are <application>, <deadline>, <end>"):
        Notices.model_validate(texts | {notice: "at <tme> by <lead>"})
    told = texts | {
        notice: "because <reason> at <time>, <end>, <freeze>, <deadline>, <minutes>, <lead>, <application>, <run>"
    }
    if notice in ("rollback", "cancelled", "delay", "deadline", "aftercare", "closing"):
        Notices.model_validate(told)
    else:
        with pytest.raises(ValidationError, match="unknown placeholder <reason>"):
            Notices.model_validate(told)
