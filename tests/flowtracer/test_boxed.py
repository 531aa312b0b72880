r"""Protects the rule for the last `\boxed{}`: the traced answer is the one that is judged, on texts that are hard."""

import inspect

import pytest

from flowtracer import boxed
from flowtracer.boxed import Boxed
from tasks.verify import extraction

#: Texts and the answer in each, None where there is none.
TEXTS = [
    (r"so \boxed{42}.", "42"),
    (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{7} and \boxed{unfinished", "7"),
    (r"\boxed{}", None),
    (r"\boxed{7} and at last \boxed{}", None),
    (r"\boxed{7} and at last \boxed{  }", None),
    ("nothing", None),
    ("", None),
    (r"\boxed", None),
    (r"\boxed{", None),
    (r"\boxed}", None),
    (r"\boxed {5}", "5"),
    ("\\boxed\n{5}", "5"),
    ("\\boxed\t \n{5}", "5"),
    ("\\boxed         {5}", None),
    (r"\\boxed{5}", "5"),
    (r"a \\ \boxed{5}", "5"),
    (r"\boxed{\left\{1,2\right\}}", r"\left\{1,2\right\}"),
    (r"\boxed{\{1\}}", r"\{1\}"),
    (r"\boxed{\{1}", r"\{1"),
    (r"\boxed{1\}}", r"1\}"),
    (r"\boxed{1\\}", r"1\\"),
    (r"\boxed{\\{1}}", r"\\{1}"),
    (r"\boxed{ 5 }", "5"),
    ("\\boxed{\n 5\u00a0}", "5"),
    (r"\boxed{\boxed{3}}", "3"),
    (r"\boxed{a \boxed{3} b}", "3"),
    (r"\boxed{3} {", "3"),
    (r"{ \boxed{3}", "3"),
    (r"} \boxed{3}", "3"),
    (r"{\boxed{3}}", "3"),
    (r"\boxed{1}\boxed{2}", "2"),
    (r"\boxed{1} \boxed{2 \boxed{3", "1"),
    (r"\boxed{1} \boxed{2 } }", "2"),
    (r"\fbox{4} \boxed{3} \fbox{4}", "3"),
    (r"\boxed{x = {y} + {z}}", "x = {y} + {z}"),
    (r"\Boxed{5}", None),
    (r"boxed{5}", None),
    (r"\boxedx{5}", None),
    (r"\boxed{答え: 四十二}", "答え: 四十二"),
    (r"\boxed{\text{no \} here}}", r"\text{no \} here}"),
    ("\\boxed{" * 3 + "5" + "}" * 2, "5"),
    ("{" * 5000 + r"\boxed{5}" + "}" * 5000, "5"),
]


@pytest.mark.parametrize(("text", "answer"), TEXTS)
def test_the_traced_answer_is_the_judged_one(text, answer):
    span = Boxed().extract(text)
    assert (None if span is None else text[slice(*span)]) == answer
    assert span == extraction.last_box(text)
    assert boxed.boxes(text) == extraction.boxes(text)


def test_one_rule_stands_in_both_packages():
    """Whoever changes it in tasks/verify/extraction.py copies it to flowtracer/boxed.py, word for word."""
    assert boxed._BRACES == extraction._BRACES
    for name in ("boxes", "last_box", "trim"):
        assert inspect.getsource(getattr(boxed, name)) == inspect.getsource(getattr(extraction, name)), name


def test_of_what_decides_nothing_is_known():
    assert Boxed().decisive(r"\boxed{5}") is None
