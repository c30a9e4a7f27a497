"""How long tests wait before they call something hung: limits against waiting for ever, no measures of speed."""

from __future__ import annotations

RUN_SECONDS = 1200.0
"""For a run, a gate or an event of a run. A quiet machine needs 40 s for a run; a shared one was seen to need 300 s."""
