"""Protects the keys on which pairing rests: stable across processes and versions, never confused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import seeds

parts = st.lists(st.one_of(st.text(max_size=6), st.integers()), min_size=1, max_size=4)


def test_key_never_changes_between_versions() -> None:
    assert seeds.key("rollout", 0, 12, "decision/train/5", 3) == "ed457234dd32513dc98ca317f0914fcd"


@given(parts, parts)
def test_different_parts_have_different_keys(first: list[str | int], second: list[str | int]) -> None:
    same = [(type(part), part) for part in first] == [(type(part), part) for part in second]
    assert (seeds.key(*first) == seeds.key(*second)) == same


def test_neither_borders_nor_types_are_confused() -> None:
    choices = [
        ("ab",),
        ("a", "b"),
        ("", "ab"),
        ("1",),
        (1,),
        (1, 2),
        (12,),
        ("a", 1),
        ("a1",),
        ("1:a",),
        (-1,),
    ]
    for first, second in itertools.combinations(choices, 2):
        assert seeds.key(*first) != seeds.key(*second)


@pytest.mark.parametrize("wrong", [(), (1.0,), (True,), (None,), (b"a",)])
def test_parts_that_have_no_stable_text_are_refused(wrong: tuple) -> None:
    with pytest.raises(TypeError):
        seeds.key(*wrong)


def test_integer_takes_leading_bits() -> None:
    key = seeds.key("evaluation", "gsm8k", "gsm8k/test/1", 0)
    assert seeds.integer(key, 128) == int(key, 16)
    assert seeds.integer(key, 32) == int(key[:8], 16)
    assert seeds.integer(key) < 2**32


@pytest.mark.parametrize(("key", "bits"), [("ab", 32), (seeds.key(1), 0), (seeds.key(1), 129)])
def test_integer_refuses_what_is_not_a_key(key: str, bits: int) -> None:
    with pytest.raises(ValueError, match="bits|digits"):
        seeds.integer(key, bits)
