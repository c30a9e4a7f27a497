"""The application's configuration as the steps use it: the values to set, and the copy from before the switch."""

from __future__ import annotations

from pathlib import Path

from include.cutover.application import configuration
from include.cutover.steps.step import Step


def kept_configuration(step: Step, settings: configuration.Settings) -> Path:
    """Return the place where the configuration from before the switch is kept."""
    return configuration.kept_as(settings, step.evidence.folder.name, step.plan.backup.directory)


def fill(values: dict[str, str], **known: str) -> dict[str, str]:
    """Return the plan's values with ``{application_url}`` and ``{source_path}`` filled in."""
    filled = {}
    for key, value in values.items():
        for name, content in known.items():
            value = value.replace("{" + name + "}", content)
        filled[key] = value
    return filled
