"""Hundreds of verdicts checked by hand, in golden.txt: the known traps of answer checking, one line each."""

import json
from pathlib import Path

import pytest

import tasks

LINES = (Path(__file__).parent / "golden.txt").read_text(encoding="utf-8").splitlines()


def cases():
    name = question = ""
    for number, line in enumerate(LINES, start=1):
        if not line.strip() or line.startswith("# "):
            continue
        if line.startswith("[") and " | " in line:
            name, question = line.removeprefix("[").removesuffix("]").split(" | ")
            continue
        fields = line.split(" :: ")
        if fields[0] == "text":
            _, gold, text, verdict = fields
            text = text.replace("\\n", "\n")
        else:
            gold, answer, verdict = fields
            text = f"So it is \\boxed{{{answer}}}."
        if name in ("countdown", "olympiadbench"):
            gold = json.loads(gold)
        yield number, name, question, gold, text, verdict


CASES = list(cases())


def test_the_file_is_read():
    assert len(CASES) > 350
    assert {verdict for *_, verdict in CASES} == {"correct", "wrong", "no_answer"}


def test_verdicts():
    wrong = []
    for number, name, question, gold, text, verdict in CASES:
        task = tasks.get(name)
        found = task.verify(task.problem_from(question, gold), text)
        if found != verdict:
            wrong.append(f"golden.txt line {number}: {gold!r} against {text!r} is {found}, not {verdict}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("verdict", ["correct", "wrong"])
def test_each_side_is_well_represented(verdict):
    assert sum(case[-1] == verdict for case in CASES) > 130
