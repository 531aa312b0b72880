"""Protects `flowtracer tasks` and `flowtracer validate`: what they print, and that a verifier that errs is status 2."""

from pathlib import Path

import pytest

import tasks
from harness import cli
from tasks import TaskError, Verdict


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = cli.main(list(arguments))
    return status, capsys.readouterr().out


def test_a_sound_verifier_passes(capsys: pytest.CaptureFixture[str]) -> None:
    status, output = run(capsys, "validate", "sums", "--limit", "5")
    row = next(line for line in output.splitlines() if line.split()[:2] == ["sums", "test"])
    assert status == 0
    assert row.split()[2:5] == ["5", "100.00%", "100.00%"] and row.split()[-1] == "0"


def test_a_verifier_that_accepts_everything_is_named_with_what_it_accepts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that checks its own task reads the status; a person reads which answer passed."""
    monkeypatch.setattr(type(tasks.get("sums")), "judge", lambda self, problem, answer: Verdict("correct"))
    status, output = run(capsys, "validate", "sums", "--limit", "2")
    assert status == 2 and "passes" in output


def test_a_verifier_that_refuses_its_golds_is_named_with_what_it_refuses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tasks.get("sums")), "judge", lambda self, problem, answer: Verdict("wrong"))
    status, output = run(capsys, "validate", "sums", "--limit", "2")
    assert status == 2 and "0.00%" in output and "is wrong" in output


def test_without_a_name_a_task_without_data_is_left_out_and_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without data sets the generated tasks are checked all the same."""
    get = tasks.get

    def absent(name: str, **options: object) -> tasks.Task:
        if name == "gsm8k":
            raise TaskError("gsm8k: its data is not on this machine")
        return get(name, **options)

    monkeypatch.setattr(tasks, "names", lambda: ["gsm8k", "sums"])
    monkeypatch.setattr(tasks, "get", absent)
    status, output = run(capsys, "validate", "--limit", "2")
    assert status == 0 and "gsm8k: its data is not on this machine" in output and "sums" in output


def test_a_gold_in_brackets_is_printed_and_not_read_as_a_style(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for gold in ("[a, b]", "[/b]"):
        problem = tasks.Problem(id="sums/[test]", question="q", gold=gold)
        monkeypatch.setattr(type(tasks.get("sums")), "problems", lambda *_, problem=problem: [problem])
        status, output = run(capsys, "tasks", "sums")
        assert status == 0 and f'sums/[test]  gold: "{gold}"' in output


def test_the_folder_for_lm_eval_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Its only output is the path: it stands inside `--include_path $(...)`."""
    status, output = run(capsys, "tasks", "--lm-eval-path")
    assert status == 0 and list(Path(output.rstrip("\n")).glob("*.yaml"))
