"""A user's mistakes, from the command line: one line that names the input, status 2, and nothing is trained."""

import json

import pytest

from harness import cli, plugins, trackers
from tests.harness import tiny

METHOD = """
from flowtracer.credit import CreditMethod, register
@register
class Mine(CreditMethod):
    name = "mine"
    def weights(self, context): return context.response.float()
"""
PLUGINS = {
    "import nothing_of_that_name\n": "mine.py fails to import: ModuleNotFoundError",
    "x = (\n": "mine.py fails to import: SyntaxError",
    "x = 1\n": "mine.py registers nothing",
    METHOD.replace('"mine"', '"flow"'): "mine.py: the credit method 'flow' of mine.Mine is there already",
    METHOD.rpartition("    def")[0]: "mine.py: the credit method mine.Mine does not define weights",
    METHOD.replace(
        '"mine"', '"mine"\n    gamma: float = 2.0'
    ): "mine.py: Mine writes 'gamma' as an option and is no dataclass",
}
CSV = "method,seed,accuracy\nuniform,0,0.5\nflow,0,0.6\nuniform,1,0.4\nflow,1,0.55\n"
TABLES = {
    CSV.replace("seed,", "sede,"): "results.csv: has no column 'seed'",
    CSV.replace("0.55", "nan"): "results.csv, line 5: accuracy is 'nan'",
    CSV + "flow,2,0.5\n": "results.csv: flow has seed 2 and uniform has not",
}


@pytest.fixture
def mistaken(tmp_path, monkeypatch, capsys):
    """A command in a folder of the user's: gives back its line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(tiny.toml(tiny.table()))

    def line(*words):
        assert cli.main(list(words)) == 2
        said = capsys.readouterr()
        assert said.err.startswith("flowtracer: ") and said.err.count("\n") == 1, said.err
        assert said.out == "" and not (tmp_path / "runs").exists()
        return said.err

    yield line
    plugins.forget()


@pytest.mark.parametrize("text", PLUGINS)
@pytest.mark.parametrize(
    "command", [("reproduce", "tiny.toml"), ("train", "tiny.toml", "--method", "flow"), ("replay", "none")]
)
def test_a_plugin_that_gives_nothing(mistaken, tmp_path, command, text):
    (tmp_path / "mine.py").write_text(text)
    assert PLUGINS[text] in mistaken(*command, "--import", "mine.py")


@pytest.mark.parametrize("text", PLUGINS)
def test_a_plugin_of_an_experiment_file_that_gives_nothing(mistaken, tmp_path, text):
    (tmp_path / "mine.py").write_text(text)
    table = {"imports": ["mine.py"], **tiny.table()}
    (tmp_path / "tiny.toml").write_text(tiny.toml(table))
    assert PLUGINS[text] in mistaken("reproduce", "tiny.toml")


def test_a_file_that_was_named_as_a_module(mistaken, tmp_path):
    (tmp_path / "mine.py").write_text(METHOD)
    line = mistaken("reproduce", "tiny.toml", "--import", "mine")
    assert "No module named 'mine'; did you mean the file mine.py?" in line


@pytest.mark.parametrize("text", TABLES)
def test_a_table_that_cannot_be_compared(mistaken, tmp_path, text):
    (tmp_path / "results.csv").write_text(text)
    assert TABLES[text] in mistaken("leaderboard", "results.csv", "--smallest-difference", "0.01")


def test_two_evaluations_on_different_items(mistaken, tmp_path):
    for name, items in (("a", "12"), ("b", "13")):
        rows = [{"problem_id": item, "sample": 0, "task": "t", "reward": 1.0} for item in items]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "different items: 1 only in A, 1 only in B" in mistaken("compare-policies", "a.jsonl", "b.jsonl")
    words = mistaken("compare-policies", "a.jsonl", "b.jsonl", "--filter", "strict-match")
    assert "--filter strict-match: neither A nor B is of lm-eval" in words


@pytest.mark.parametrize("name", trackers.TRACKERS)
@pytest.mark.parametrize("command", [("reproduce",), ("train", "--method", "flow"), ("noise",)])
def test_a_tracker_that_is_not_installed(mistaken, monkeypatch, command, name):
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    words = (command[0], "tiny.toml", *command[1:], "--report-to", name)
    assert f"{name} is not installed" in mistaken(*words)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def login(verify): raise RuntimeError('api_key not configured (no-tty)')", "run `wandb login`"),
        (
            "raise ImportError('no protobuf')",
            "wandb is installed and does not import: ImportError: no protobuf",
        ),
    ],
)
def test_a_tracker_that_cannot_report(mistaken, monkeypatch, tmp_path, text, line):
    """A stand-in answers for Weights & Biases, whoever is logged in on this machine."""
    monkeypatch.setattr(trackers, "find_spec", lambda _: object())
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "wandb.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert line in mistaken("reproduce", "tiny.toml", "--report-to", "wandb")
