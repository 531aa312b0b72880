"""Protects the command values: its page and files, what the same command does again, and the mistakes it names."""

import json
import shlex
from pathlib import Path

import pytest

from harness import cli
from tests.harness import tiny

LINE = "values tiny.toml --problems 6 --cuts 2 --continuations 16 --methods uniform,random --out kept.jsonl"


def test_values_writes_its_page_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(tiny.toml(tiny.table()))
    files = "--export values.json --export values.md"
    assert cli.main(shlex.split(f"{LINE} {files}")) == 0
    output = capsys.readouterr().out
    assert all(len(line) <= 100 for line in output.splitlines() if "±" in line)
    kept, page = Path("kept.jsonl").read_bytes(), Path("values.md").read_text()
    table = json.loads(Path("values.json").read_text())
    assert table["results"]["continuations"] == 16 and table["results"]["ranked"] > 0
    assert table["command"] in page and "random" in [row["name"] for row in table["results"]["methods"]]
    assert cli.main(shlex.split(table["command"])[1:]) == 0
    assert capsys.readouterr().out == output
    assert Path("kept.jsonl").read_bytes() == kept, "nothing was sampled again"

    assert cli.main(shlex.split(f"{LINE} --seed 1")) == 2
    error = capsys.readouterr().err
    assert "kept.jsonl holds records with seed 0, not 1" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("values decision decision --problems 0", "--problems 0"),
        ("values decision decision --seed -1", "--seed -1"),
        ("values decision decision --methods flaw", "unknown credit method 'flaw'"),
        ("values decision decision --continuations 20", "rounds of 16"),
        ("values decision decision --temperature 0", "duplicates"),
        ("values decision decision --split dev", "no split 'dev'"),
        ("values decision --temperature 0.5", "--temperature goes with a policy and a task"),
        ("values decision --dtype bfloat16", "--dtype goes with a policy and a task"),
        ("values decision decision --set training.steps=3", "--set goes with an experiment"),
        ("values decision --set training.stepps=3", "stepps"),
        ("values decison", "unknown experiment 'decison'"),
    ],
)
def test_mistakes_are_one_line(line, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(shlex.split(line)) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir()), "a mistake leaves nothing behind"
