"""Kinds of answers that verifiers are known to misjudge, each with near misses that must stay wrong."""

import json
from pathlib import Path

import pytest

import tasks
from tasks import Verdict


def verdict(gold, answer, question="", task="math500"):
    judged = tasks.get(task)
    gold = json.loads(gold) if task == "countdown" else gold
    return judged.verify(judged.problem_from(question, gold), f"So it is \\boxed{{{answer}}}.")


def cases():
    """(kind, task, question, gold, answer, verdict) of every line of kinds.txt."""
    kind = task = question = ""
    for line in (Path(__file__).parent / "kinds.txt").read_text(encoding="utf-8").splitlines()[2:]:
        if line.startswith("# "):
            kind = line[2:]
        elif line.startswith("[") and " :: " not in line:
            task, question = line[1:-1].split(" | ")
        elif line:
            yield (kind, task, question, *line.split(" :: "))


CASES = list(cases())


def test_every_kind_has_both_sides():
    for kind in {case[0] for case in CASES}:
        assert {case[-1] for case in CASES if case[0] == kind} == {"correct", "wrong"}, kind
    assert len(CASES) > 400


@pytest.mark.parametrize(("kind", "task", "question", "gold", "answer", "expected"), CASES)
def test_kind(kind, task, question, gold, answer, expected):
    assert verdict(gold, answer, question, task) == expected, kind


def test_the_boxes_of_one_closing_sentence_count_together_where_the_gold_is_a_list():
    task = tasks.get("math500")
    pair, single = task.problem_from("", "4, 9"), task.problem_from("", "9")
    for text in (
        "It is \\boxed{4} and \\boxed{9}.",
        "$\\boxed{9}$, $\\boxed{4}$",
        "\\boxed{4} \\text{ or } \\boxed{9}",
    ):
        assert task.verify(pair, text) is Verdict.CORRECT
    for text in (
        "First \\boxed{4}. Then it follows that \\boxed{9}.",
        "\\boxed{4} \\boxed{5} \\boxed{9}",
        "\\boxed{9}",
    ):
        assert task.verify(pair, text) is Verdict.WRONG
    assert task.verify(single, "\\boxed{4} and \\boxed{9}") is Verdict.CORRECT  # the last box, as everywhere
    assert task.verify(single, "\\boxed{9} and \\boxed{4}") is Verdict.WRONG


def test_no_answer_makes_itself_unscorable():
    """sympy fails on a sum whose index it cannot count with; a policy that wrote one would be left out of the mean."""
    task = tasks.get("math500")
    problem = task.problem_from("", "\\frac{7}{2}")
    for answer in ("\\sum_{e=1}^{7} e", "\\sum_{7=1}^{7} 1", "\\prod_{i=i}^{i} i"):
        assert task.verify(problem, f"\\boxed{{{answer}}}") is Verdict.WRONG


def test_hashes_are_a_number_and_no_heading():
    task = tasks.get("gsm8k")
    problem = task.problem_from("", 3)
    for text in ("#### 3", "#### 3<|im_end|>", "#### 3</s>", "#### `3`", "#### 7. Check\n#### 3"):
        assert task.verify(problem, text) is Verdict.CORRECT
    for text in ("#### 3. Conclude\nIt is 3.", "#### 3) Sum", "#### 3. **Total**"):
        assert task.verify(problem, text) is Verdict.NO_ANSWER


@pytest.mark.parametrize(
    ("question", "right"),
    [
        ("How likely is it?", True),
        ("What is the chance of rain?", True),
        ("How many % are left?", True),
        ("The tank shows 30% now. What did it show before?", True),
        ("After 30% off, how much does it cost?", False),
        ("How many apples are left?", False),
    ],
)
def test_a_percentage_is_asked_for_in_several_ways(question, right):
    task = tasks.get("gsm8k")
    expected = Verdict.CORRECT if right else Verdict.WRONG
    assert task.verify(task.problem_from(question, 40), "#### 40%") is expected


def test_published_solutions_with_odd_boxes(tmp_path, monkeypatch):
    """One unreadable gold among many is left out by id; a file of them is refused."""
    rows = [
        {"problem": f"What is {i} + {i}?", "solution": f"It is $\\boxed{{{2 * i}}}$."} for i in range(400)
    ]
    rows[7]["solution"], rows[9]["solution"] = "It is \\boxed{}.", "It is $\\boxed 8$."
    path = tmp_path / "math_test.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("FLOWTRACER_DATA", str(tmp_path))
    task = tasks.get("math")
    problems = task.problems("test")
    assert len(problems) == 399 and problems[8].gold == "8"
    assert [item for item, _ in task.unreadable] == ["math/test/7"]
    path.write_text("\n".join(json.dumps({**row, "solution": "\\boxed{}"}) for row in rows))
    with pytest.raises(tasks.TaskError, match="line 1: gold must be"):
        task.problems("test")
