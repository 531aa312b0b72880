"""Protects the choice of methods: dear ones by name only, the one to compare with always, mistakes with a hint."""

import pytest

from harness.errors import ExperimentError
from harness.studies.chosen import chosen

KNOWN = {"vine": ("vine", {}), "uniform": ("uniform", {}), "strong": ("flow", {"gamma": 3.0})}


def test_methods_that_sample_further_responses_are_there_by_name_only():
    assert list(chosen(KNOWN, None, "uniform")) == ["uniform", "strong"]
    assert list(chosen(KNOWN, ["vine"], "uniform")) == ["uniform", "vine"]


def test_a_wanted_method_has_its_options_and_stands_once():
    methods = chosen(KNOWN, ["strong", "uniform", "strong"], "uniform")
    assert list(methods) == ["uniform", "strong"] and methods["strong"].gamma == 3.0
    assert list(chosen(KNOWN, [], "uniform")) == ["uniform"]


def test_a_misspelling_has_one_line_with_what_was_meant():
    with pytest.raises(
        ExperimentError, match="unknown credit method 'stong'; did you mean 'strong'.;"
    ) as error:
        chosen(KNOWN, ["stong"], "uniform")
    assert "\n" not in str(error.value)
