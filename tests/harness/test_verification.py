"""Protects verdicts that are asked for early: they are the ones that would be found later, each is waited for, and a
step that judges too long does not wait for ever.
"""

import threading

import pytest

import tasks
from harness.verification import Verification
from tasks import Verdict


@pytest.fixture(scope="module")
def task():
    return tasks.get("math500")


def test_early_verdicts_are_the_late_ones(task):
    problem = task.problem_from("What?", "\\frac{1}{2}")
    texts = ["\\boxed{0.5}", "\\boxed{2}", "nothing", "\\boxed{\\frac{2}{4}}", ""]
    with Verification(task) as verification:
        asked = [verification.begin(problem, text, "length") for text in texts]
        found = verification.verdicts(asked, 60.0)
    assert found == task.verify_all([(problem, text, "length") for text in texts])
    assert set(found) == {Verdict.CORRECT, Verdict.WRONG, Verdict.TRUNCATED}


def test_quick_tasks_are_judged_at_once():
    task, heard = tasks.get("decision"), []
    problem = task.problems("train", 1)[0]
    verification = Verification(task)
    asked = verification.begin(problem, "#", "stop", then=heard.append)
    assert verification.threads is None and asked.verdict.done() and heard == [asked.verdict.result()]


def test_what_is_not_begun_in_time_is_a_timeout_if_there_is_an_answer(task, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(task, "judge", lambda *_: release.wait(30) and Verdict.CORRECT, raising=False)
    problem = task.problem_from("What?", "7")
    with Verification(task) as verification:
        asked = [verification.begin(problem, "\\boxed{7}", "stop") for _ in range(4)]
        asked.append(verification.begin(problem, "none", "stop"))
        threading.Timer(0.5, release.set).start()
        found = verification.verdicts(asked, 0.1)
    # Two were being judged, and are waited for.
    assert found == [Verdict.CORRECT] * 2 + [Verdict.TIMEOUT] * 2 + [Verdict.NO_ANSWER]
