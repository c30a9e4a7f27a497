"""How the Data Docs look, and the one expectation that Great Expectations does not bring.

The pages that Great Expectations writes load scripts, fonts and styles from other hosts and stay empty without them. These
views render the same documents without any script and with one small stylesheet inside each page, so that a site can be
read from disk, below any path of a web server, and on a host without a way out. What comes from the data is escaped.

This module imports Great Expectations, which takes seconds: only a running stage imports it (``expectations``).
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any, ClassVar

from great_expectations.expectations import UnexpectedRowsExpectation  # noqa: TID253
from great_expectations.render import LegacyDiagnosticRendererType, RenderedTableContent  # noqa: TID253
from great_expectations.render.renderer.renderer import renderer  # noqa: TID253
from great_expectations.render.view import DefaultJinjaPageView  # noqa: TID253
from jinja2 import ChoiceLoader, FileSystemLoader, pass_context

TEMPLATES = Path(__file__).parent / "templates"


class SitePage(DefaultJinjaPageView):  # type: ignore[misc]
    """Any page of a site: start page, result of a validation, suite of expectations.

    Args:
        heading: What the stage checks, at the top of every page.
        task_log_url: Where the log of the task is; empty for no link.
    """

    _template = "site_page.j2"

    def __init__(self, heading: str = "", task_log_url: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.env.loader = ChoiceLoader([FileSystemLoader(TEMPLATES), self.env.loader])
        self.env.globals.update(heading=html.escape(heading), task_log_url=html.escape(task_log_url, quote=True))
        self.env.filters["plain"] = html.escape

    @pass_context
    def render_content_block(self, jinja_context: Any, content_block: Any, *args: Any, **kwargs: Any) -> Any:
        """As in Great Expectations, but plain text is text: a value of the data never becomes markup."""
        if isinstance(content_block, list) and not kwargs.get("render_to_markdown"):
            return "".join(
                str(self.render_content_block(jinja_context, item, *args, **kwargs))
                if _is_component(item)
                else f"<span>{html.escape(str(item))}</span>"
                for item in content_block
            )
        rendered = super().render_content_block(jinja_context, content_block, *args, **kwargs)
        if _is_component(content_block) or rendered is None:
            return rendered
        return html.escape(str(rendered))

    def render_string_template(self, template: Any) -> Any:
        """As in Great Expectations, with a name for data behind which is no table, and with code that stays text."""
        if isinstance(template, dict):
            values = template.get("params") or {}
            if "data_asset_name" in values and values["data_asset_name"] is None:
                values["data_asset_name"] = values.get("expectation_suite_name")
            if template.get("tag") == "code":
                template["template"] = html.escape(str(template.get("template", "")))
        return super().render_string_template(template)


def _is_component(item: Any) -> bool:
    return (isinstance(item, dict) and "content_block_type" in item) or hasattr(item, "to_json_dict")


class ExpectQueryToFindNoRows(UnexpectedRowsExpectation):  # type: ignore[misc]
    """The query finds nothing. What it finds is shown in the Data Docs, so it must select keys only.

    The query has to give the number of all rows in its column ``COUNT_COLUMN`` and may limit what it returns: unlike its
    base class this asks once instead of twice, and does not fetch every row that is wrong.
    """

    COUNT_COLUMN: ClassVar[str] = "rows found"
    metric_dependencies: ClassVar[tuple[str, ...]] = ("unexpected_rows_query.table",)

    def _validate(self, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        rows = metrics["unexpected_rows_query.table"]
        found = int(rows[0][self.COUNT_COLUMN]) if rows else 0
        keys = [{name: value for name, value in row.items() if name != self.COUNT_COLUMN} for row in rows]
        return {"success": found == 0, "result": {"observed_value": found, "details": {"unexpected_rows": keys}}}

    @classmethod
    @renderer(renderer_type=LegacyDiagnosticRendererType.UNEXPECTED_TABLE)  # type: ignore[untyped-decorator]
    def _diagnostic_unexpected_table_renderer(
        cls, configuration: Any = None, result: Any = None, runtime_configuration: Any = None
    ) -> list[RenderedTableContent] | None:
        rows = ((result.result if result is not None else None) or {}).get("details", {}).get("unexpected_rows")
        if not rows or not rows[0]:
            return None
        # Stored results have their names sorted; the expectation may say in which order they are to be read.
        names = (result.expectation_config.meta or {}).get("columns") or list(rows[0])
        return [
            RenderedTableContent(
                content_block_type="table",
                header_row=[str(name) for name in names],
                table=[["NULL" if row.get(name) is None else str(row[name]) for name in names] for row in rows],
                styling={"body": {"classes": ["table", "table-sm", "keys"]}},
            )
        ]
