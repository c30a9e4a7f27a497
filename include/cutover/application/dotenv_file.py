"""The application's dotenv file: read, switched to the target, and restored.

Only the lines of the keys that are set change. Comments, order, ``export``, quoting and line ends stay, and so do the
file's owner, group and mode. Every replacement is atomic. Values hold credentials: messages name keys only.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream

from include.cutover import files, rights
from include.cutover.errors import CannotCheck, Refused, StepFailed, WrongData
from include.cutover.files import sync_folder, write_atomically

log = logging.getLogger(__name__)

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BARE = re.compile(r"[A-Za-z0-9_./:@%+,=-]+")
_LINE = re.compile(r"(?P<lead>\s*)(?P<export>export[^\S\r\n]+)?(?P<rest>.*?)(?P<end>[^\S\r\n]*(?:\r\n|\n|\r)?)", re.DOTALL)
_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
_BOM = "\ufeff"


def read(file: Path) -> dict[str, str]:
    """Return the file's keys and values as python-dotenv reads them, the last of a repeated key. Expands no ``${…}``.

    Raises:
        CannotCheck: When the file is missing, unreadable or not UTF-8.
    """
    return values_of(_text(files.real(file)))


def line(key: str, value: str, *, like: str = "") -> str:
    """Return ``KEY=value``, quoted so that python-dotenv and a POSIX shell read the same value back.

    Args:
        key: The variable's name.
        value: Its value.
        like: The quote that was used before, used again where possible.

    Raises:
        WrongData: When both read no form of it alike; names the key only. In a URL, percent-encode the character.
    """
    if not _KEY.fullmatch(key):
        raise WrongData(
            "not a usable name for an environment variable",
            where=key,
            expected="letters, digits and _",
            do="Correct the plan.",
        )
    ways = {"": value == "" or _BARE.fullmatch(value) is not None}
    # The shell takes everything between single quotes as it is; python-dotenv takes \\ and \' there as one character.
    ways["'"] = "'" not in value and not re.search(r"\\(\\|$)", value)
    # Between double quotes both undo \\ and \"; $ and ` mean something to the shell only, and it knows no other escapes.
    ways['"'] = "$" not in value and "`" not in value
    # python-dotenv expands ${…} whatever the quotes; nothing but a plain line of text is sure to survive other readers.
    impossible = "${" in value or any(character in value for character in "\0\r\n")
    for quote in (like, *ways):
        if ways[quote] and not impossible:
            written = re.sub(r'([\\"])', r"\\\1", value) if quote == '"' else value
            return f"{key}={quote}{written}{quote}"
    raise WrongData(
        "python-dotenv and a shell read this value differently, however it is quoted",
        where=key,
        expected="one line without ${, and not a single quote or a double backslash together with $ or `",
        do="In a URL, percent-encode the characters; else choose another value.",
    )


def switch(file: Path, values: Mapping[str, str], *, keep_as: Path) -> None:
    """Set ``values`` in the file, atomically, and keep the file from before.

    Repeated keys are set everywhere, missing ones are appended. Safe to run again: the old file is kept once, before
    anything changes, and never replaced by a later one; values that are set already are not written again.

    Args:
        file: The dotenv file, or a link to it.
        values: The keys to set.
        keep_as: Where the old file goes, mode 0600.

    Raises:
        CannotCheck: When the file is missing, unreadable or not UTF-8.
        WrongData: When a value cannot be written (see ``line``); nothing was changed.
        Refused: When the file cannot be replaced under its owner, or is a mount of its own; nothing was changed.
        StepFailed: When the folder is not writable, or the file does not read back as it was written.
    """
    path = files.real(file)
    old = _text(path)
    new = with_values(old, values, str(path))
    _keep(old, keep_as)
    _replace(path, new)
    _compare(path, values)


def restore(file: Path, kept: Path, values: Mapping[str, str], switched: Collection[str]) -> list[str]:
    """Restore the content that ``switch`` kept, with ``values`` set over it, atomically.

    Other keys that were added or changed after the switch stay as they are now. The replaced file stays beside the kept one,
    with ``.replaced`` behind its name, when it was edited after the switch. Without a kept file nothing was switched:
    ``values`` are set in the file as it is, which is kept first. Safe to run again.

    Args:
        file: The dotenv file, or a link to it.
        kept: See ``switch``.
        values: The keys to set over the kept content.
        switched: The keys that ``switch`` set: they are never taken from the file as it is now.

    Returns:
        The keys that were added or changed after the switch and stay. Where their lines cannot be read back in the kept
        content, beside an open quote for instance, none stay: the log names them, and the replaced file has them.

    Raises:
        As ``switch``.
    """
    if not kept.exists():
        switch(file, values, keep_as=kept)
        return []
    path = files.real(file)
    found, before = _text(path), _text(kept)
    later = _later(before, found, {*switched, *values})
    merged = _with_bindings(before, later)
    if values_of(merged) != {**values_of(before), **{key: values_of(found)[key] for key in later}}:
        log.error("%s: these keys cannot stay, their lines do not read back: %s", path, ", ".join(sorted(later)))
        merged, later = before, {}
    new = with_values(merged, values, str(path))
    if found != new:
        _keep(found, kept.with_name(f"{kept.name}.replaced"))
    _replace(path, new)
    _compare(path, values)
    return sorted(later)


def _later(before: str, found: str, but: Collection[str]) -> dict[str, str]:
    """Return the keys that were added or changed since, each with its line as it is written now."""
    old, new = values_of(before), values_of(found)
    lines = {binding.key: binding.original.string for binding in _bindings(found) if binding.key and not binding.error}
    return {key: lines[key] for key, value in new.items() if key not in but and old.get(key) != value}


def _with_bindings(text: str, lines: Mapping[str, str]) -> str:
    """Return the text with these lines in the place of those of the same keys; missing ones are appended."""
    if not lines:
        return text
    end = "\r\n" if "\r\n" in text else "\n"
    # The last line of a file may have no line end, and another line may follow it here.
    lines = {key: written if written.endswith(("\n", "\r")) else written + end for key, written in lines.items()}
    parts, seen = [_BOM] if text.startswith(_BOM) else [], set()
    for binding in _bindings(text):
        changed = binding.key in lines and not binding.error
        parts.append(lines[binding.key] if changed and binding.key else binding.original.string)
        seen |= {binding.key} if changed else set()
    content = "".join(parts)
    for key, written in lines.items():
        if key not in seen:
            content += "" if not content or content.endswith(("\n", "\r")) else end
            content += written
    return content if content.endswith(("\n", "\r")) else content + end


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise CannotCheck(
            "the application's configuration file is missing",
            where=str(path),
            do="Correct configuration.file in the plan, or restore the file.",
        ) from None
    except OSError as error:
        raise CannotCheck(
            "the application's configuration file cannot be read",
            where=str(path),
            found=rights.reason(error, path),
            do="Let the tasks' user read it.",
        ) from None
    except UnicodeDecodeError as error:
        raise CannotCheck(
            "the application's configuration file is not UTF-8",
            where=str(path),
            found=f"byte {error.start} is not",
            do="Save it as UTF-8.",
        ) from None


def _bindings(text: str) -> list[Binding]:
    return list(parse_stream(io.StringIO(text, newline="")))


def values_of(text: str) -> dict[str, str]:
    """Return keys and values of such a file's text, as ``read``."""
    values = dotenv_values(stream=io.StringIO(text, newline=""), interpolate=False)
    return {key: value for key, value in values.items() if value is not None}


def with_values(text: str, values: Mapping[str, str], where: str) -> str:
    """Return the text of such a file with the values set; see ``switch``.

    Args:
        text: The old text.
        values: The keys to set.
        where: The text's source, for errors.

    Raises:
        WrongData: When a value cannot be written, or the new text does not read back; names keys only.
    """
    lines = {key: line(key, value) for key, value in values.items()}
    parts, seen = [_BOM] if text.startswith(_BOM) else [], set()
    for binding in _bindings(text):
        if binding.key in lines and not binding.error:
            seen.add(binding.key)
            parts.append(_rewritten(binding, values[binding.key]))
        else:
            parts.append(binding.original.string)
    end = "\r\n" if "\r\n" in text else "\n"
    content = "".join(parts)
    missing = [lines[key] for key in values if key not in seen]
    if missing and content.removeprefix(_BOM) and not content.endswith(("\n", "\r")):
        content += end
    content += "".join(f"{item}{end}" for item in missing)
    expected, found = {**values_of(text), **values}, values_of(content)
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        raise WrongData(
            "the rewritten file would not read back with the right values",
            where=f"{where}: {', '.join(wrong)}",
            do="Correct the lines there that are not KEY=value, such as an open quote.",
        )
    return content


def _rewritten(binding: Binding, value: str) -> str:
    """Return the binding's line with another value: blank lines before it, ``export``, comment and line end stay."""
    match = _LINE.fullmatch(binding.original.string)
    if match is None or binding.key is None:
        raise AssertionError("every string matches, and only lines with a key are rewritten")
    before, _, written = match["rest"].partition("=")
    quoted = _QUOTED.match(written.lstrip())
    if binding.value is None:
        found = re.search(r"#.*", before, re.DOTALL)
    elif quoted:
        found = re.search(r"\s*#.*", written.lstrip()[quoted.end() :], re.DOTALL)
    else:
        found = re.search(r"\s+#.*", written, re.DOTALL)  # without a blank before it, # belongs to the value
    comment = found.group() if found else ""
    if comment.startswith("#"):
        comment = f" {comment}"
    # ``KEY= # comment`` is a value to some readers.
    like = quoted.group()[:1] if quoted else "'" if comment and value == "" else ""
    return f"{match['lead']}{match['export'] or ''}{line(binding.key, value, like=like)}{comment}{match['end']}"


def _keep(text: str, keep_as: Path) -> None:
    if not keep_as.exists():
        with files.disk_errors(keep_as):
            write_atomically(keep_as, text.encode(), 0o600)


def _replace(path: Path, text: str) -> None:
    """Replace the file's content in one step; owner, group and mode stay."""
    content = text.encode()
    if content == path.read_bytes():
        return
    if files.is_mount(path):
        raise Refused(
            "the configuration file is a mount of its own and cannot be replaced in one step",
            where=str(path),
            do="Mount its folder instead.",
        )
    found = path.stat()
    temporary = path.with_name(f".{path.name}.cutover")
    with files.disk_errors(path):
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as writing:
                files.give(writing.fileno(), path, found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))
                writing.write(content)
                writing.flush()
                os.fsync(writing.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def _compare(path: Path, values: Mapping[str, str]) -> None:
    found = read(path)
    wrong = sorted(key for key, value in values.items() if found.get(key) != value)
    if wrong:
        raise StepFailed(
            "the configuration file does not read back as it was written",
            where=f"{path}: {', '.join(wrong)}",
            do="Another program or person writes this file; stop that, then run the step again.",
        )
