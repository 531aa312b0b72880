"""Protects shell completion: in bash itself commands, options and names are offered, and nothing is where none fits."""

import shutil
import subprocess

import pytest

from harness import cli
from harness.commands.shared import kinds_of


@pytest.fixture(scope="module")
def script():
    import contextlib
    import io

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert cli.main(["completion", "bash"]) == 0
    return printed.getvalue()


def offered(script, *words):
    """What bash would offer for the last of these words."""
    line = " ".join(f"'{word}'" for word in words)
    ask = (
        f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _flowtracer; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes(script):
    assert set(offered(script, "flowtracer", "rep")) == {"reproduce", "replay"}
    assert "decision" in offered(script, "flowtracer", "reproduce", "dec")
    assert offered(script, "flowtracer", "reproduce", "decision", "--until") == ["--until-decided"]
    assert "flow" in offered(script, "flowtracer", "train", "decision", "--method", "fl")
    assert set(offered(script, "flowtracer", "train", "decision", "--report-to", "t")) == {
        "trackio",
        "tensorboard",
    }
    assert offered(script, "flowtracer", "reproduce", "--out", "de") == [], (
        "files are the shell's own business"
    )
    assert offered(script, "flowtracer", "nonsense", "x") == []
    assert "flow" in offered(script, "flowtracer", "steps", "--methods", "fl")
    assert "graph" in offered(script, "flowtracer", "edges", "graph", "gra")
    assert "decision" in offered(script, "flowtracer", "values", "dec")
    assert "math" in offered(script, "flowtracer", "replay", "--task", "ma")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_an_arm_is_completed_by_the_labels_of_experiments(script):
    """An arm need not be called as its credit method is."""
    for command in (["train", "fairness", "--method"], ["noise", "fairness", "--arm"]):
        assert "uniform_more" in offered(script, "flowtracer", *command, "uniform_m")
    assert offered(script, "flowtracer", "replay", "fairness", "--methods", "uniform_m") == []


def test_every_argument_that_takes_names_has_its_kind():
    """A new command is completed too, without a list of them somewhere else."""
    kinds = {
        "experiment": {"experiments"}, "policy": {"policies"}, "task": {"tasks"}, "methods": {"methods"},
        "method": {"arms"}, "arm": {"arms"},
    }  # fmt: skip
    commands = next(action for action in cli._parser()._actions if action.dest == "command").choices
    seen = 0
    for name, parser in commands.items():
        for action in parser._actions:
            if action.dest in kinds:
                assert set(kinds_of(action)) == kinds[action.dest], (name, action.dest)
                seen += 1
    assert seen >= 20


def test_every_command_is_in_every_script(capsys, script):
    for shell in ("zsh", "fish"):
        assert cli.main(["completion", shell]) == 0
        text = capsys.readouterr().out
        commands = next(action for action in cli._parser()._actions if action.dest == "command").choices
        assert all(command in text for command in commands)
    assert "complete -c flowtracer -n '__fish_seen_subcommand_from train' -l method -x -a " in text
    assert cli.main(["completion", "tcsh"]) == 2
