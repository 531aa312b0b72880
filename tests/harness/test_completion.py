"""Protects shell completion: in bash itself commands, options and names are offered, and nothing is where none fits."""

import shutil
import subprocess

import pytest

from harness import cli


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


def test_every_command_is_in_every_script(capsys, script):
    for shell in ("zsh", "fish"):
        assert cli.main(["completion", shell]) == 0
        text = capsys.readouterr().out
        commands = next(action for action in cli._parser()._actions if action.dest == "command").choices
        assert all(command in text for command in commands)
    assert "complete -c flowtracer -n '__fish_seen_subcommand_from train' -l method -x -a " in text
    assert cli.main(["completion", "tcsh"]) == 2
