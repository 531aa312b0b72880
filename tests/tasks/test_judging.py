"""Protects verdicts that are asked for early: they are the ones that would be found later, each is waited for, and no
answer that hangs its verifier costs another its verdict.
"""

import threading
import time

import pytest

import tasks
from tasks import Verdict
from tasks.judging import Judging
from tasks.verify import pool

#: Sums of a tower of powers: the comparison runs until it is stopped.
HANGS = "\\boxed{\\sum_{n=1}^{10^{9}} \\sin(n)^{n}}"


@pytest.fixture(scope="module")
def task():
    return tasks.get("math500")


def test_early_verdicts_are_the_late_ones(task):
    problem = task.problem_from("What?", "\\frac{1}{2}")
    texts = ["\\boxed{0.5}", "\\boxed{2}", "nothing", "\\boxed{\\frac{2}{4}}", "", "\\boxed{\\sin(\\pi/6)}"]
    with Judging(task) as judging:
        asked = [judging.begin(problem, text, "length") for text in texts]
        early = judging.verdicts(asked, 60.0)
    assert early == task.verify_all([(problem, text, "length") for text in texts])
    assert early == [task.verify(problem, text, "length") for text in texts]
    assert set(early) == {Verdict.CORRECT, Verdict.WRONG, Verdict.TRUNCATED}


def test_quick_tasks_are_judged_at_once():
    task, heard = tasks.get("decision"), []
    problem = task.problems("train", 1)[0]
    judging = Judging(task)
    asked = judging.begin(problem, "#", "stop", then=heard.append)
    assert judging.threads is None and asked.verdict.done() and heard == [asked.verdict.result()]


def test_answers_that_hang_cost_only_their_own_policy(task):
    """Twelve before twenty right ones that need a worker too: within ten seconds all twenty are correct."""
    problem = task.problem_from("What?", "\\sqrt{2}+\\sqrt{3}")
    hanging = [(problem, HANGS.replace("9}", f"{index + 8}}}"), None) for index in range(12)]
    right = [
        (problem, f"\\boxed{{\\sqrt{{3}}+\\frac{{{index + 2}\\sqrt{{2}}}}{{{index + 2}}}}}", None)
        for index in range(20)
    ]
    task.verify(problem, "\\boxed{\\sqrt{3}+\\sqrt{2}}")  # starts the workers
    began = time.monotonic()
    verdicts = task.verify_all(hanging + right, seconds=10.0)
    assert verdicts[12:] == [Verdict.CORRECT] * 20
    assert Verdict.CORRECT not in verdicts[:12]
    # To the end of every try they take 51 seconds; a busy machine may add the 30.
    assert time.monotonic() - began < 10.0 + pool.DEADLINE + 30.0


def test_every_verdict_is_waited_for_at_the_end(task):
    """Leaving the block, nothing that was asked for is lost, though it had to be tried twice."""
    problem, heard = task.problem_from("What?", "\\sqrt{2}"), []
    with Judging(task) as judging:
        asked = judging.begin(problem, HANGS, "stop", then=heard.append)
    assert asked.verdict.done() and heard == [asked.verdict.result()]
    assert heard[0] in (Verdict.TIMEOUT, Verdict.WRONG, Verdict.ERROR)


def test_what_is_not_known_in_time_is_a_timeout(task, monkeypatch):
    release = threading.Event()

    def slow(problem, answer):
        if pool.shared().deadline == 0:
            return Verdict.TIMEOUT
        return Verdict.CORRECT if release.wait(30) else Verdict.WRONG

    monkeypatch.setattr(task, "judge", slow, raising=False)
    problem = task.problem_from("What?", "7")
    judging = Judging(task)
    asked = [judging.begin(problem, "\\boxed{7}", "stop") for _ in range(4)]
    asked.append(judging.begin(problem, "none", "stop"))
    assert judging.verdicts(asked, 0.1) == [Verdict.TIMEOUT] * 4 + [Verdict.NO_ANSWER]
    release.set()
    judging.close()


@pytest.mark.parametrize("name", ["math500", "gsm8k"])
def test_what_a_verifier_raises_is_an_error_with_its_text(name, monkeypatch, caplog):
    """Neither a training step nor an evaluation may end because of one response."""
    task = tasks.get(name)

    def broken(problem, answer):
        raise KeyError("no such symbol\nin two lines")

    monkeypatch.setattr(task, "judge", broken, raising=False)
    problem = task.problem_from("What?", "7")
    with Judging(task) as judging:
        asked = judging.begin(problem, "\\boxed{7}", "stop")
    assert asked.verdict.result() is Verdict.ERROR
    assert asked.trouble.startswith("KeyError: ") and "\n" not in asked.trouble
    assert task.verify_all([(problem, "\\boxed{7}", None), (problem, "none", None)]) == [
        Verdict.ERROR,
        Verdict.NO_ANSWER,
    ]
    assert "could not judge" in caplog.text


def test_who_hears_of_a_verdict_may_fail(task):
    """A journal on a full disk: its error reaches whoever asks for the verdict, and no thread swallows it."""

    def full(verdict):
        raise OSError("no space left")

    with Judging(task) as judging:
        asked = judging.begin(task.problem_from("What?", "7"), "\\boxed{7}", "stop", then=full)
    with pytest.raises(OSError, match="no space left"):
        asked.verdict.result()
