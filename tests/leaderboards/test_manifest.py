"""Manifests: what they say survives writing and reading, and those of older and newer versions still open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import manifest, new_writer

from leaderboards.format import RecordError
from leaderboards.manifest import BITWISE, DISTRIBUTION, UNKNOWN, Manifest, weakest
from leaderboards.records import read_run


def test_a_run_resumed_elsewhere_says_so(tmp_path: Path) -> None:
    new_writer(tmp_path / "run")
    new_writer(tmp_path / "run")
    assert not read_run(tmp_path / "run").manifest.resumed
    for _ in range(2):
        new_writer(tmp_path / "run", versions={"torch": "2.14.0"})
    resumed = read_run(tmp_path / "run").manifest.resumed
    assert [place.versions for place in resumed] == [{"torch": "2.14.0"}]


def test_the_file_keeps_its_keys_and_what_this_version_does_not_know(tmp_path: Path) -> None:
    """Records are read by other programs, and by versions to come."""
    path = tmp_path / "manifest.json"
    table = manifest(processes=2).to_json()
    assert list(table)[:4] == ["experiment", "experiment_hash", "method", "seed"]
    assert {"versions", "hardware", "git_commit", "tier", "schema_version", "processes"} <= table.keys()
    assert "resumed" not in table and "environment_hash" not in table
    resumed = [{"versions": {"torch": "2.14.0"}, "hardware": None, "git_commit": None}]
    path.write_text(json.dumps({**table, "colour": "green", "resumed": resumed}))
    read = Manifest.read(tmp_path)
    assert read.more == {"colour": "green"} and read.to_json()["colour"] == "green"
    assert [place.versions for place in read.places] == [table["versions"], {"torch": "2.14.0"}]
    assert Manifest.from_json(read.to_json(), path) == read


def test_what_a_manifest_lacks_is_named(tmp_path: Path) -> None:
    table = {key: value for key, value in manifest().to_json().items() if key not in ("seed", "tier")}
    with pytest.raises(RecordError, match="lacks seed, tier") as caught:
        Manifest.from_json(table, tmp_path / "manifest.json")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training", None, "experiment.training is 'None', not of type dict"),
        ("name", 5, "experiment.name is '5', not of type str"),
        ("seeds", "8", "experiment.seeds is '8', not of type int"),
        ("policy", {"name": None}, "experiment.policy.name is 'None', not of type str"),
        ("task", "decision", "experiment.task is 'decision', not of type dict"),
    ],
)
def test_a_part_of_the_experiment_of_another_type_is_named(
    key: str, value: Any, message: str, tmp_path: Path
) -> None:
    """Every reader takes them as they are: it was a traceback in some command or other."""
    table = manifest().to_json()
    table["experiment"] = {**table["experiment"], key: value}
    with pytest.raises(RecordError, match=message):
        Manifest.from_json(table, tmp_path / "manifest.json")


def test_questions_about_the_experiment() -> None:
    whole = manifest("flow")
    assert (whole.name, whole.task, whole.options) == ("decision", "decision", {"credit": "flow"})
    assert whole.described == "decision 0123456789ab" and "methods" not in whole.shared
    bare = manifest("flow", experiment={})
    assert (bare.name, bare.task, bare.options, bare.methods) == ("?", None, None, {})


def test_a_comparison_is_as_repeatable_as_its_weakest_run() -> None:
    assert weakest([BITWISE, BITWISE]) == BITWISE
    assert weakest([BITWISE, DISTRIBUTION]) == DISTRIBUTION
    assert weakest([DISTRIBUTION, "T9"]) == UNKNOWN
