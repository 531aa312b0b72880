"""Protects the commands edges and steps: their pages, the command that a page names, and the mistakes they name."""

import json
import re
import shlex
from pathlib import Path

import pytest

from harness import cli

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "leaderboards" / "results"
ORDER = ("# ", "## Rules that read no model", "## What it cannot say", "## The command")


def test_edges_writes_its_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = "edges graph graph --problems 1 --samples 1 --temperature 0 --dtype float32 --batch-size 4"
    files = "--export edges.json --export edges.md"
    assert cli.main(shlex.split(f"{line} {files}")) == 0
    page, table = Path("edges.md").read_text(), json.loads(Path("edges.json").read_text())
    assert f"```sh\nflowtracer {line} {files}\n```" in page
    assert table["command"] == f"flowtracer {line} {files}"
    names = [row["name"] for row in table["results"]]
    assert "nearest" in names and all(f"| {name} |" in page for name in names)
    assert "Rows that emit the tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("edges decision decision", "take graph"),
        ("edges graph graph --samples 2 --temperature 0", "duplicates"),
        ("steps graph graph --problems 0", "--problems 0"),
        ("steps graph graph --methods flaw", "unknown credit method 'flaw'"),
    ],
)
def test_mistakes_are_one_line(line, named, capsys):
    assert cli.main(shlex.split(line)) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["graph-edges", "graph-steps", "graph-replay"])
def test_a_kept_page_answers_in_order_and_names_a_command_that_parses(name):
    page = (RESULTS / f"{name}.md").read_text()
    order = [part for part in ORDER if part in page or name != "graph-replay"]
    assert sorted(order, key=page.index) == order
    line = page.rpartition("```sh\n")[2].partition("\n```")[0]
    options = cli._parser().parse_args(shlex.split(line)[1:])
    assert [str(path) for path in options.export] == [f"{name}.json", f"{name}.md"]
    assert json.loads((RESULTS / f"{name}.json").read_text())["command"] == line


def test_every_number_of_the_documentation_stands_on_a_kept_page():
    kept = "".join(page.read_text() for page in RESULTS.glob("graph-*.md"))
    numbers = re.findall(r"\d\.\d{3} ±\d\.\d{3}", (ROOT / "docs" / "results" / "graph.md").read_text())
    assert len(numbers) > 15
    assert [number for number in numbers if number not in kept] == []
    card = (ROOT / "harness" / "policies" / "graph" / "README.md").read_text()
    assert "| steps with right mechanics | 0.9847 |" in card and "| accuracy, temperature 1 | 0.383 (" in card
