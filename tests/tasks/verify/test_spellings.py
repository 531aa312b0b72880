"""Protects what validation puts to a verifier: other spellings of an answer verify, and changed answers do not."""

import pytest

import tasks
from tasks import Verdict
from tasks.verify import spellings

ANSWERS = ["7", "-12", "\\frac{3}{4}", "x + 1", "1, 2, 5", "\\{1, 2, 5\\}", "(1, 2)", "(1, 2, 3)", "[0, 4]"]


def verdict(gold: str, answer: str) -> Verdict:
    judged = tasks.get("math500")
    return judged.verify(judged.problem_from("", gold), f"So it is \\boxed{{{answer}}}.")


@pytest.mark.parametrize("answer", ANSWERS)
def test_other_spellings_verify(answer: str) -> None:
    respelled = [*spellings.integers(answer, boxed=True), *spellings.expressions(answer)]
    assert respelled and {text: verdict(answer, text) for text in respelled} == dict.fromkeys(
        respelled, "correct"
    )


@pytest.mark.parametrize("answer", ANSWERS)
def test_changed_answers_do_not_verify(answer: str) -> None:
    changed = list(spellings.others(answer))
    assert changed
    assert {text: verdict(answer, text) for text in changed} == dict.fromkeys(changed, "wrong")


def test_an_integer_outside_a_box_ends_a_sentence() -> None:
    """A dollar sign belongs in a box, a full stop outside one; what is no integer has no such spelling."""
    assert list(spellings.integers("1234", boxed=True)) == ["1234.0", "1,234", "$1234$"]
    assert list(spellings.integers("1234", boxed=False)) == ["1234.0", "1,234", "1234."]
    assert list(spellings.integers("1/2", boxed=True)) == []


def test_what_has_no_number_has_nothing_to_change() -> None:
    assert list(spellings.other_numbers("x")) == []


def test_a_palindrome_reversed_is_no_other_answer() -> None:
    """(1, 1) reversed is (1, 1): validation would call a right answer wrong."""
    assert "(1, 1)" not in list(spellings.others("(1, 1)"))
