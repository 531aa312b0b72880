"""Protects what a user with other versions sees first: one line with what fails, why, and what to install instead."""

import importlib.metadata
import warnings

import pytest

from flowtracer import versions


@pytest.fixture
def installed(monkeypatch):
    """A function that pretends that packages are installed in given versions."""
    true = importlib.metadata.version

    def pretend(**given):
        monkeypatch.setattr(importlib.metadata, "version", lambda name: given.get(name) or true(name))

    return pretend


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"transformers": "5.16.1"},
            "transformers 5.16.1 does not work .* pip install 'transformers==5.17.\\*'",
        ),
        ({"transformers": "4.57.0"}, "pip install 'transformers==5.17.\\*'"),
        ({"trl": "1.15.0"}, "trl 1.15.0 does not work .* Triton kernel .* pip install 'trl==1.16.\\*'"),
        ({"trl": "0.24.0"}, "pip install 'trl==1.14.\\*'"),
        ({"torch": "2.10.0+cpu"}, "torch 2.10.0\\+cpu does not work .* pip install 'torch==2.11.\\*'"),
        ({"torch": "unknown"}, "torch unknown does not work"),
    ],
)
def test_what_does_not_work_is_one_line_with_the_nearest_version_that_does(installed, given, sentence):
    installed(**given)
    with pytest.raises(ImportError, match=sentence) as caught:
        versions.check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{"transformers": "5.25.0"}, {"trl": "2.0.0.dev0"}, {"torch": "3.0.1"}])
def test_a_newer_version_than_any_tested_is_a_warning_and_no_wall(installed, given):
    """The weekly job against the newest releases must reach the contract tests."""
    installed(**given)
    (name,) = given
    with pytest.warns(versions.VersionWarning, match=f"{name} .* newer .* pip install '{name}=="):
        versions.check()


@pytest.mark.parametrize(
    "given",
    [
        {"transformers": "5.17.0", "trl": "1.14.2", "torch": "2.11.0"},
        {"transformers": "5.24.0", "trl": "1.16.0", "torch": "2.15.0+cu130"},
    ],
)
def test_tested_versions_pass_in_silence(installed, given):
    installed(**given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        versions.check()


def test_a_missing_library_is_left_to_the_import_that_needs_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    versions.check()
