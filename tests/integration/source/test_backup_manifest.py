"""The manifest leads from the evidence to the backup and shows its own damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from include.cutover.errors import CannotCheck
from include.cutover.evidence.record import Evidence
from include.cutover.source import backup_manifest
from include.cutover.source.backup_manifest import Manifest
from tests.support.backups import RUN, take


def test_the_evidence_gets_enough_to_find_it_again(live: Path, places: tuple[Path, Path]) -> None:
    manifest = take(live, places)
    evidence = Evidence.of("ward_ops", RUN)
    evidence.append("backup", **backup_manifest.facts(manifest))
    event = evidence.last("backup")
    assert event is not None
    assert (event["sha256"], event["bytes"]) == (manifest.sha256, manifest.bytes)
    assert backup_manifest.load(Path(event["manifest"])) == manifest
    Path(event["manifest"]).unlink()
    assert backup_manifest.load(Path(event["manifest"]), Path(event["second_manifest"])) == manifest


def test_a_damaged_manifest_is_noticed(live: Path, places: tuple[Path, Path]) -> None:
    manifest = take(live, places)
    text = manifest.path.read_text()
    for damaged in (text.replace('"device": 2', '"device": 3'), text[:-10], "", "[]", "null"):
        with pytest.raises(CannotCheck, match="damaged"):
            Manifest.from_json(damaged)
    with pytest.raises(CannotCheck, match=r"another version; expected 1; found 2"):
        Manifest.from_json(json.dumps({**json.loads(text), "version": 2}))
    manifest.path.write_text("{")
    with pytest.raises(CannotCheck, match="damaged"):
        backup_manifest.load(manifest.path)
    assert manifest.second_file is not None
    assert (
        backup_manifest.load(manifest.path, manifest.second_file.with_name(f"{manifest.second_file.name}.manifest.json"))
        == manifest
    )
    with pytest.raises(CannotCheck, match="cannot be read"):
        backup_manifest.load(places[0] / "none")
