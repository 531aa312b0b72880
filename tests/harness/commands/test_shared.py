"""Protects what commands share: counts and names are checked, and a kept command is the one that ran."""

import argparse
import math
import os
import shlex

import pytest

from harness import ExperimentError, cli
from harness.commands.experiments import check_together
from harness.commands.shared import at_least, command_again, method_names, write
from harness.engines.base import EngineChoice

#: Options that take a number which is no count: a share, a temperature, a difference, GPUs.
NO_COUNTS = {
    "--agreement",
    "--alpha",
    "--gpus",
    "--smallest-difference",
    "--temperature",
}


def options():
    """Each option of each command that takes a number."""
    commands = next(action for action in cli._parser()._actions if action.dest == "command").choices
    for name, parser in commands.items():
        for action in parser._actions:
            if action.type in (int, float) or getattr(action.type, "__qualname__", "").startswith("at_least"):
                yield name, action.option_strings[-1], action.type


def test_every_count_of_every_command_has_a_least():
    plain = {option for _, option, kind in options() if kind in (int, float)}
    assert plain == NO_COUNTS
    assert sum(option not in NO_COUNTS for _, option, _ in options()) > 30


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evaluate decision decision --problems 0", "--problems 0: give at least 1"),
        ("evaluate decision decision --problems -5", "--problems -5: give at least 1"),
        ("evaluate decision decision --samples 0", "--samples 0: give at least 1"),
        ("evaluate decision decision --batch-size 0", "--batch-size 0: give at least 1"),
        ("evaluate decision decision --problems few", "--problems few: give a whole number, at least 1"),
        ("validate sums --limit -3", "--limit -3: give at least 1"),
        ("reproduce decision --more-seeds -1", "--more-seeds -1: give at least 0"),
        ("noise decision --seeds 1", "--seeds 1: give at least 2"),
        ("trace --problem -1", "--problem -1: give at least 0"),
    ],
)
def test_a_count_that_is_none_is_one_line(line, message):
    """Only parsed: taken, some of them would train."""
    words = line.split()
    with pytest.raises(ExperimentError) as raised:
        cli._parser().parse_args(words)
    assert str(raised.value) == f"{message}; see flowtracer {words[0]} --help"


def test_the_least_itself_is_taken():
    assert at_least(2)("2") == 2 and at_least(0)("0") == 0
    with pytest.raises(argparse.ArgumentTypeError, match="^1: give at least 2$"):
        at_least(2)("1")


def test_names_of_methods_are_given_in_a_list_that_is_not_empty():
    assert method_names(argparse.Namespace(methods=None)) is None
    assert method_names(argparse.Namespace(methods="flow, entropy,")) == ["flow", "entropy"]
    for nothing in ("", ",", " , "):
        with pytest.raises(ExperimentError, match="names none: give one or more"):
            method_names(argparse.Namespace(methods=nothing))


def test_a_kept_command_gives_the_same_values_again():
    """A float of many digits, and texts that begin with a dash."""
    words = ["values", "decision", "decision", "--system=-- be brief", "--temperature", "0.30000000000000004"]
    words += ["--agreement", "0.5", "--no-chat", "--problems", "4", "--set=-x=1"]
    parsed = cli._parser().parse_args(words)
    names = ("problems", "temperature", "agreement", "chat", "system", "samples")
    kept = command_again(parsed, ("source", "task"), names)
    again = cli._parser().parse_args(shlex.split(kept)[1:])
    assert vars(again) == vars(parsed)
    assert "--agreement 0.5 " in kept, "numbers are not longer than they need to be"


def test_positional_lists_and_plug_ins_are_kept():
    words = ["profile", "a b.json", "c.json", "--import", "mine.py", "--export", "page.md"]
    parsed = cli._parser().parse_args(words)
    assert shlex.split(command_again(parsed, ("files",), ())) == ["flowtracer", *words]


@pytest.mark.parametrize(
    ("gpus", "ray", "message"),
    [
        (-1.0, "local", "--gpus -1: give 0 or more"),
        (math.nan, "local", "--gpus nan: give 0 or more"),
        (1.0, None, "--gpus goes with --ray"),
    ],
)
def test_gpus_that_no_run_can_have(gpus, ray, message):
    given = argparse.Namespace(gpus=gpus, ray=ray, server=None)
    with pytest.raises(ExperimentError, match=f"^{message}"):
        check_together(given, EngineChoice("transformers"), 1, "cpu")


def test_a_text_that_names_a_file_in_no_utf_8_is_written_all_the_same(tmp_path):
    """Names of files are bytes; a page says which file its values stand in."""
    name = os.fsdecode(b"caf\xe9.csv")
    write(tmp_path / "page.md", f"from {name}")
    assert (tmp_path / "page.md").read_text() == "from caf\\udce9.csv"
