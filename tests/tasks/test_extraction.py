"""Where the answer stands: the last balanced box or well-formed line, in linear time, whatever the text holds."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.verify.extraction import boxes, last_box, last_hashes, lenient


def content(text, span):
    return None if span is None else text[span[0] : span[1]]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{5}", "5"),
        ("\\boxed{ 5 }", "5"),
        ("\\boxed {5}", "5"),
        ("\\\\boxed{5}", "5"),
        ("x \\\\\\boxed{5}", "5"),
        ("\\boxed{1} \\boxed{2}", "2"),
        ("\\boxed{1} \\boxed{2", "1"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed{\\{1,2}", "\\{1,2"),
        ("\\boxed{\\boxed{3}}", "3"),
        ("{ \\boxed{4} unbalanced", "4"),
        ("} \\boxed{4}", "4"),
        ("\\boxed{5}}", "5"),
        ("\\boxed{}", None),
        ("\\boxed{1}\\boxed{ }", None),
        ("\\boxed{5", None),
        ("\\boxed 5", None),
        ("boxed{5}", None),
        ("\\fbox{5}", None),
        ("", None),
    ],
)
def test_last_box(text, answer):
    assert content(text, last_box(text)) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 5", "5"),
        ("####5\n", "5"),
        ("#### 1\n#### 2", "2"),
        ("#### 1\n#### two", "1"),
        ("##### 5", None),
        ("### 5", None),
        ("####\n5", None),
        ("#### 5 #### 6", "6"),
        ("#### 5\r\n", "5"),
    ],
)
def test_last_hashes(text, answer):
    assert content(text, last_hashes(text, str.isdigit)) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 5.", "5"),
        ("so the answer is $\\frac12$.\nDone", "$\\frac12$"),
        ("we get 3 and then 4", "4"),
        ("none", None),
    ],
)
def test_lenient(text, answer):
    assert content(text, lenient(text)) == answer


@pytest.mark.parametrize(
    "piece",
    [
        "\\boxed{",
        "}",
        "{",
        "\\",
        "\\\\",
        "#",
        "####",
        "#### 1\n",
        "\\boxed",
        "\\boxed{}",
        " ",
        "answer is ",
        "\\boxed{1}",
        "0",
    ],
)
def test_megabytes_take_no_time(piece):
    text = piece * (2_000_000 // len(piece))
    started = time.process_time()
    last_box(text), last_hashes(text, str.isdigit), lenient(text)
    assert time.process_time() - started < 8


@settings(deadline=None, derandomize=True)
@given(st.text(alphabet="\\boxed{} 1#\n", max_size=80))
def test_spans_lie_in_the_text_and_hold_balanced_braces(text):
    for start, end in boxes(text):
        assert 0 < start <= end < len(text)
        assert text[end] == "}"
    span = last_box(text)
    assert span is None or text[span[0] : span[1]].strip()
