"""Numbers: however a value is written, the verdict is the same; and another value never passes for it."""

from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tasks
from tasks.verify import numbers

examples = settings(deadline=None, max_examples=150, derandomize=True)


def spellings(value: Fraction):
    """Ways to write a value that all mean it exactly."""
    sign, size = ("-" if value < 0 else ""), abs(value)
    top, bottom = size.numerator, size.denominator
    ways = [
        f"{sign}\\frac{{{top}}}{{{bottom}}}",
        f"{sign}{top}/{bottom}",
        f"\\frac{{{sign}{top}}}{{{bottom}}}",
        f"{sign}\\dfrac{{{2 * top}}}{{{2 * bottom}}}",
        f"${sign}{top}/{bottom}$",
        f"{sign}{top} / {bottom}.",
    ]
    if top > bottom > 1:
        ways.append(f"{sign}{top // bottom}\\frac{{{top % bottom}}}{{{bottom}}}")
        ways.append(f"{sign}{top // bottom} {top % bottom}/{bottom}")
    if bottom == 1:
        ways += [
            f"{sign}{top}",
            f"{sign}{top:,}",
            f"{sign}{top}.0",
            f"{sign}{top}.",
            f"({sign}{top})"[1:-1],
            f"{sign}{top:,}".replace(",", "{,}"),
            f"{sign}{top} \\text{{ apples}}",
            f"{sign}\\${top}",
            f"{sign}{top} \\times 10^{{0}}",
            f"{sign}{top}00\\%",
            f"\\text{{{sign}{top}}}",
        ]
    while bottom % 10 == 0:
        bottom //= 10
    reduced = size.denominator
    for prime in (2, 5):
        while reduced % prime == 0:
            reduced //= prime
    if reduced == 1:
        digits = 0
        while (size * 10**digits).denominator != 1:
            digits += 1
        whole = (size * 10**digits).numerator
        text = str(whole).rjust(digits + 1, "0")
        decimal = f"{text[:-digits]}.{text[-digits:]}" if digits else text
        ways += [
            f"{sign}{decimal}",
            f"{sign}{decimal}0" if digits else f"{sign}{decimal}.00",
            f"{sign}{whole}e-{digits}",
            f"{sign}{whole} \\times 10^{{-{digits}}}",
            f"{sign}{decimal}\\text{{ cm}}",
        ]
    return ways


values = st.one_of(
    st.integers(-(10**9), 10**9).map(Fraction),
    st.fractions(-1000, 1000, max_denominator=400),
    st.builds(
        lambda whole, digits: Fraction(whole, 10**digits), st.integers(-(10**8), 10**8), st.integers(1, 6)
    ),
)


@examples
@given(values)
def test_every_spelling_is_the_same_number(value):
    amounts = [(text, numbers.parse(text)) for text in spellings(value)]
    for text, amount in amounts:
        assert amount is not None, text
        assert numbers.equal(numbers.Amount(value), amount), text


@examples
@given(values, values, st.data())
def test_another_value_is_never_the_same(value, other, data):
    assume(value != other)
    text = data.draw(st.sampled_from(spellings(other)))
    amount = numbers.parse(text)
    assert amount is not None
    assert not numbers.equal(numbers.Amount(value), amount), text


@examples
@given(values.filter(lambda value: value.denominator == 1), st.data())
def test_verdicts_follow(value, data):
    task = tasks.get("gsm8k")
    problem = task.problem_from("How many?", int(value))
    right = data.draw(st.sampled_from(spellings(value)))
    wrong = data.draw(
        st.sampled_from(spellings(value + data.draw(st.sampled_from([1, -1, 10, Fraction(1, 2)]))))
    )
    assert task.verify(problem, f"\\boxed{{{right}}}") == "correct", right
    assert task.verify(problem, f"\\boxed{{{wrong}}}") == "wrong", wrong


@examples
@given(st.text(alphabet="0123456789+-*/.,eE%$ \\{}frac()_^x½²٣π", max_size=30))
def test_any_text_is_a_number_or_none_and_never_an_error(text):
    amount = numbers.parse(text)
    assert amount is None or isinstance(amount.value, Fraction)
    if amount is not None:
        assert any(character in "0123456789" for character in text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "-",
        "1/0",
        "\\frac{1}{0}",
        "1.2.3",
        "1,23",
        "12,34,567",
        "1 000",
        "--1",
        "+-1",
        "1e9999",
        "1_000",
        "٣",
        "²",
        "0x10",
        "1/2/3",
        "2 pi",
        "3x",
        "1:30",
        "7 pm",
        "3 4/3",
        "½",
        "1e",
        "5 or 6",
        "inf",
        "nan",
        "9" * 401,
    ],
)
def test_what_is_not_one_number(text):
    assert numbers.parse(text) is None


@pytest.mark.parametrize(
    ("gold", "answer", "asked", "same"),
    [
        ("50", "50%", False, False),
        ("50", "50%", True, True),
        ("50%", "50", False, False),
        ("50%", "50", True, True),
        ("0.5", "50%", False, True),
        ("50%", "1/2", False, True),
        ("50", "0.5", True, False),
        ("5 dollars", "5 cents", False, False),
        ("$5", "5 dollars", False, True),
        ("5 cm", "5 centimeters", False, True),
        ("5 cm", "5\\text{ m}", False, False),
        ("5", "5 parsecs", False, True),
        ("5 apples", "5 pears", False, True),
    ],
)
def test_percentages_and_units(gold, answer, asked, same):
    one, other = numbers.parse(gold), numbers.parse(answer)
    assert one is not None and other is not None
    assert numbers.equal(one, other, asked) is same


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("What percent of 60 is 12?", True),
        ("What is the percentage of girls?", True),
        ("Answer in %.", True),
        ("What \\% is left?", True),
        ("Express 3/4 as a percent.", True),
        ("With 20 percent off, what is the price?", False),
        ("With 20% off, what is the price?", False),
        ("A 20-percent solution weighs what?", False),
        ("How many?", False),
    ],
)
def test_when_a_percentage_is_asked_for(question, asked):
    assert numbers.asks_percent(question) is asked
