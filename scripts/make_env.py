"""Write the settings of the container stack, with random secrets: ``python3 scripts/make_env.py [FOLDER]``.

``.env`` is for docker-compose.yaml, ``.env.tasks`` for the plans' tasks. Both are filled in from their ``.example``: every
``<random>`` becomes a password, the same one for the same name in both, and ``<fernet>`` a Fernet key. Mode 0600. Existing
files are never overwritten.
"""

import base64
import os
import re
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = (".env", ".env.tasks")


def filled(text: str, known: dict[str, str]) -> str:
    """Return the text with secrets in the place of ``<random:NAME>`` and ``<fernet:NAME>``; known ones are used again."""

    def value(found: re.Match[str]) -> str:
        kind, name = found.groups()
        if name not in known:
            known[name] = (
                base64.urlsafe_b64encode(secrets.token_bytes(32)).decode() if kind == "fernet" else secrets.token_urlsafe(48)
            )
        return known[name]

    return re.sub(r"<(random|fernet):([a-z_]+)>", value, text)


def main() -> int:
    """Write both files; return 0 when that was possible."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    there = [name for name in NAMES if (folder / name).exists()]
    if there:
        sys.stderr.write(f"env: {' and '.join(there)} in {folder} stay as they are; remove them to get new secrets\n")
        return 1
    known: dict[str, str] = {}
    for name in NAMES:
        text = filled((ROOT / f"{name}.example").read_text(encoding="utf-8"), known)
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    sys.stderr.write(f"env: {' and '.join(NAMES)} were written in {folder} with new secrets, readable by their owner only\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
