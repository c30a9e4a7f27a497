"""How the Data Docs look, and the expectations that Great Expectations does not bring.

The pages that Great Expectations writes load scripts, fonts and styles from other hosts, speak of suites and assets, and
call an expectation that had no value to check a success. Its site builder writes ours instead: each check, the expectation
and its origin, the result and the next action, without any script and with one small stylesheet inside each page. So a
site can be read from disk, below any path of a web server, and on a host without a way out. All content from the data is
escaped.

This module imports Great Expectations, which takes seconds: only a running stage imports it (``expectations``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from great_expectations import __version__  # noqa: TID253
from great_expectations.expectations import UnexpectedRowsExpectation  # noqa: TID253
from great_expectations.expectations.expectation import BatchExpectation  # noqa: TID253
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from include.cutover.masking import visible
from include.cutover.proof.table_rules import COUNT_COLUMN

TEMPLATES = Path(__file__).parent / "templates"

_WORST_FIRST = ("failed", "unknown", "passed")

FIGURES: dict[str, Callable[[], Mapping[str, int]]] = {}
"""Where an expectation gets the figures that it is about, once."""


class ExpectQueryToFindNoRows(UnexpectedRowsExpectation):  # type: ignore[misc]
    """The query finds nothing. Rows that it finds are shown in the Data Docs, so it must select keys only.

    The query has to give the number of all rows in its column ``COUNT_COLUMN`` and may limit what it returns: unlike its
    base class this asks once instead of twice, and does not fetch every row that is wrong.
    """

    metric_dependencies: ClassVar[tuple[str, ...]] = ("unexpected_rows_query.table",)

    def _validate(self, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        rows = metrics["unexpected_rows_query.table"]
        found = int(rows[0][COUNT_COLUMN]) if rows else 0
        keys = [{name: value for name, value in row.items() if name != COUNT_COLUMN} for row in rows]
        columns = list(keys[0]) if keys else []
        details = {"unexpected_rows": keys, "columns": columns}  # the names by themselves: a stored row is sorted by them
        return {"success": found == 0, "result": {"observed_value": found, "details": details}}


class ExpectFiguresInBounds(BatchExpectation):  # type: ignore[misc]
    """Figures that were found elsewhere are within bounds; each bound must have its figure.

    Attributes:
        figures: Where they are, in ``FIGURES``.
    """

    figures: str
    at_least: dict[str, int]
    at_most: dict[str, int]

    def _validate(self, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        found = FIGURES.pop(self.figures)()
        if not self.at_least and not self.at_most:
            raise ValueError("there are no bounds to compare the figures with")
        low = all(found[name] >= bound for name, bound in self.at_least.items())
        high = all(found[name] <= bound for name, bound in self.at_most.items())
        return {"success": low and high, "result": {"observed_value": dict(found)}}


# --- pages ----------------------------------------------------------------------------------------------------------------


class Page:
    """Makes HTML from what a renderer gives."""

    def __init__(self) -> None:
        loader = FileSystemLoader(TEMPLATES)
        self._environment = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )

    def render(self, document: Mapping[str, Any], **_: Any) -> str:
        """Return the page as text."""
        return visible(self._environment.get_template(document["template"]).render(document))


class StartPage:
    """All suites of a stage, those that did not pass first.

    Args:
        stage: ``heading``, ``about``, ``task_log_url``, ``moment``, and ``suites``: for each its ``name``, whether it stands
            ``first``, the ``rows`` that it was about where these are not a table, and its ``checks`` by the requirement's
            identity, each with its ``origin``.
    """

    def __init__(self, stage: Mapping[str, Any]) -> None:
        self._stage = stage

    def render(self, links: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content of the page. Great Expectations knows where each result's page is."""
        found = []
        for link in links.get("validations_links", []):
            suite = self._stage["suites"][link["expectation_suite_name"]]
            checks = _worst_first(suite["checks"].values())
            found.append({"name": suite["name"], "first": suite["first"], "address": link["filepath"], "checks": checks,
                          "outcome": checks[0]["outcome"], "counts": _counts(checks)})  # fmt: skip
        found.sort(key=lambda suite: (_WORST_FIRST.index(suite["outcome"]), not suite["first"], suite["name"]))
        return {
            **_frame(self._stage),
            "template": "start.html.j2",
            "suites": found,
            "counts": _counts([check for suite in found for check in suite["checks"]]),
        }


class ResultPage:
    """The results of one suite. Argument as for ``StartPage``."""

    def __init__(self, stage: Mapping[str, Any]) -> None:
        self._stage = stage

    def render(self, validation: Any) -> dict[str, Any]:
        """Return the content of the page, from the results as Great Expectations kept them."""
        suite = self._stage["suites"][validation.suite_name]
        shown, at_fault = {}, {}
        for result in validation.results:
            config, details = result.expectation_config, (result.result or {}).get("details") or {}
            identity = config.meta["requirement"]
            for row in (result.result or {}).get("unexpected_index_list") or []:
                at_fault[row["name"]] = suite["checks"][identity]["outcome"]
            shown[identity] = {
                **suite["checks"][identity],
                "columns": details.get("columns") or [],
                "rows": details.get("unexpected_rows") or [],
                "all_rows": (result.result or {}).get("observed_value"),
                "query": _as_written(config.kwargs.get("unexpected_rows_query", "")),
            }
        checks = _worst_first([shown[identity] for identity in suite["checks"] if identity in shown])
        return {
            **_frame(self._stage),
            "template": "result.html.j2",
            "name": suite["name"],
            "checks": checks,
            "counts": _counts(checks),
            "rows": suite["rows"],
            "at_fault": at_fault,
        }


def _frame(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: stage[name] for name in ("heading", "about", "task_log_url", "moment")}, "version": __version__}


def _worst_first(checks: Any) -> list[Mapping[str, Any]]:
    return sorted(checks, key=lambda check: _WORST_FIRST.index(check["outcome"]))


def _counts(checks: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counted = Counter(check["outcome"] for check in checks)
    return {outcome: counted[outcome] for outcome in _WORST_FIRST}


def _as_written(query: str) -> str:
    """Return a query as it was before it was made a template, see ``requirements``."""
    return query.removesuffix(" {batch!s:.0}").replace("\\:", ":").replace("{{", "{").replace("}}", "}")
