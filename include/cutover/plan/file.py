"""Reads a plan file: replaces its variables, checks it, and reports all faults at once."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from include.cutover import rights
from include.cutover.errors import PlanInvalid
from include.cutover.places import plans_folder
from include.cutover.plan.model import Plan
from include.cutover.plan.passwords import passwords
from include.cutover.plan.types import NAME_PATTERN

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class _UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A YAML loader to which a repeated key is a fault; YAML itself silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def _expand(value: Any, path: str, environment: Mapping[str, str], faults: list[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: _expand(item, f"{path}.{key}" if path else str(key), environment, faults) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_expand(item, f"{path}.{index}", environment, faults) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = environment.get(name) or default
        if found is None:
            faults.append(f"{path}: the environment variable {name} is not set; set it or write ${{{name}:-default}}")
            return ""
        return found

    return _VARIABLE.sub(replace, value)


def _describe(error: dict[str, Any], hidden: Collection[str] = ()) -> str:
    path = ".".join(str(part) for part in error["loc"]) or "the file"
    found = error.get("input")
    hide = isinstance(found, dict | list | tuple | BaseModel) or str(found) in hidden
    shown = "" if hide else f", found {found!r}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key{shown}; remove it or correct its spelling"
    if error["type"] == "missing":
        return f"{path}: missing"
    return f"{path}: {message}{shown}"


def parse_plan(text: str, where: str, environment: Mapping[str, str] | None = None) -> Plan:
    """Read a plan from YAML text.

    Args:
        text: The YAML.
        where: The file's name, for errors.
        environment: Values of the plan's variables; the process's environment when left out.

    Raises:
        PlanInvalid: With all faults of the text, each with its path, the value found and the values allowed.
    """
    try:
        data = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise PlanInvalid("the file is not valid YAML", [str(error)], where=where) from None
    if not isinstance(data, dict):
        raise PlanInvalid("a plan must be a mapping of keys", [f"the file: found {type(data).__name__}"], where=where)
    faults: list[str] = []
    data = _expand(data, "", os.environ if environment is None else environment, faults)
    secret, hidden = passwords(data)
    faults += secret
    try:
        plan = Plan.model_validate(data)
    except ValidationError as error:
        faults += [_describe(dict(item), hidden) for item in error.errors()]
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        raise PlanInvalid(f"the plan has {count}", faults, where=where)
    return plan


def load_plan(name: str) -> Plan:
    """Read the plan of that name.

    With ``CUTOVER_NO_SERVICES=1`` in the environment the plan moves the data only: it has no services, smoke tests,
    configuration, roles or aftercare, and names no hard links: it is for a copy of the application's file.

    Raises:
        PlanInvalid: When the plan does not exist or has faults.
    """
    path = plans_folder() / f"{name}.yaml"
    named = re.fullmatch(NAME_PATTERN, name) is not None
    try:
        text = path.read_text(encoding="utf-8") if named else None
    except (FileNotFoundError, IsADirectoryError):
        text = None
    except OSError as error:
        found = rights.reason(error, path)
        raise PlanInvalid("the plan cannot be read", [], where=str(path), found=found, do="Make it readable.") from None
    except UnicodeDecodeError:
        raise PlanInvalid("the plan is not UTF-8", [], where=str(path), do="Save it as UTF-8.") from None
    if text is None:
        known = ", ".join(sorted(item.stem for item in plans_folder().glob("*.yaml"))) or "none"
        shown = name if named else ascii(name)[:60]
        raise PlanInvalid(f"there is no plan {shown}", [], where=str(plans_folder()), expected=f"one of: {known}")
    plan = parse_plan(text, where=str(path))
    if plan.name != name:
        raise PlanInvalid(
            "the name differs from the file's name", [f"name: found {plan.name!r}, expected {name!r}"], where=str(path)
        )
    if os.environ.get("CUTOVER_NO_SERVICES") == "1":
        unwatched = plan.aftercare.model_copy(update={"enabled": False})
        without = {"services": (), "smoke_tests": None, "configuration": None, "access": None, "aftercare": unwatched}
        return plan.model_copy(update={**without, "source_other_names": ()})
    return plan
