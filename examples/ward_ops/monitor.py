"""The monitor page of the stand-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

_LABELS = {
    "standalone_devices": "Devices",
    "branches": "Branches",
    "alert_rules": "Alert rules",
    "ping_results": "Ping results",
}
_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}

_STYLE = """
:root { color-scheme: light dark; --line: #d8dee6; --soft: #5b6775; --card: #fff; --page: #f3f5f8; --text: #17202b; }
@media (prefers-color-scheme: dark) {
  :root { --line: #303a46; --soft: #9aa7b5; --card: #1a222c; --page: #10161d; --text: #e6ebf1; }
}
* { box-sizing: border-box; }
body { margin: 0; padding: 2rem 1rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, "Noto Sans Georgian", sans-serif; }
main { max-width: 60rem; margin: 0 auto; }
header { display: flex; flex-wrap: wrap; gap: .75rem; align-items: center; justify-content: space-between; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
.badge { padding: .2rem .8rem; border-radius: 1rem; font-weight: 600; color: #fff; }
.sqlite { background: #7a4a00; }
.postgresql { background: #22577a; }
.table { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .5rem .9rem; text-align: left; border-top: 1px solid var(--line); }
tr:first-child th, tbody:first-child tr:first-child td { border-top: 0; }
th { font-weight: 500; color: var(--soft); }
td[data-table], .number { text-align: right; font-variant-numeric: tabular-nums; }
td[data-table] { font-size: 1.15rem; font-weight: 600; }
.down { color: #c0392b; font-weight: 600; }
footer { margin-top: 1.5rem; color: var(--soft); font-size: .85rem; }
"""


@dataclass(frozen=True)
class Ping:
    """A line of the list of newest pings."""

    device: str
    ip: str
    reachable: bool
    avg_rtt_ms: int | None
    time: datetime | None


def render(database: str, counts: Mapping[str, int], pings: Sequence[Ping], now: datetime) -> str:
    """Return the page.

    Args:
        database: ``sqlite`` or ``postgresql``.
        counts: Table → rows; each is in a cell with the attribute ``data-table``.
        pings: The newest ones.
        now: The time of these values.
    """
    rows = "\n".join(
        f'<tr><th scope="row">{_LABELS.get(table, escape(table))}</th><td data-table="{escape(table)}">{count}</td></tr>'
        for table, count in counts.items()
    )
    newest = "\n".join(_line(ping) for ping in pings) or '<tr><td colspan="4">No pings yet.</td></tr>'
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ward OPS monitor</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header>
<h1>Ward OPS</h1>
<span class="badge {escape(database)}" data-database="{escape(database)}">{_NAMES.get(database, escape(database))}</span>
</header>
<h2>Inventory</h2>
<div class="table"><table><tbody>
{rows}
</tbody></table></div>
<h2>Newest pings</h2>
<div class="table"><table>
<thead><tr><th>Device</th><th>Address</th><th class="number">Average, ms</th><th>Time, UTC</th></tr></thead>
<tbody>
{newest}
</tbody></table></div>
<footer>As of {now:%Y-%m-%d %H:%M:%S} UTC</footer>
</main>
</body>
</html>
"""


def _line(ping: Ping) -> str:
    rtt = ping.avg_rtt_ms if ping.reachable else '<span class="down">unreachable</span>'
    time = "" if ping.time is None else f"{ping.time:%Y-%m-%d %H:%M:%S}"
    return f'<tr><td>{escape(ping.device)}</td><td>{escape(ping.ip)}</td><td class="number">{rtt}</td><td>{time}</td></tr>'
