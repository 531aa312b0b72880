"""Protects what a manifest says about its origin: exact versions, and a commit that is one or nothing."""

import importlib.metadata
import re
from pathlib import Path

import pytest

from harness import ExperimentError, provenance


def test_versions_name_what_results_depend_on():
    found = provenance.versions()
    assert set(found) == {"python", "vllm", *provenance.PACKAGES}
    for name in ("torch", "transformers", "trl", "lm-eval"):
        assert re.match(r"\d+\.\d+", found[name])


def test_a_checkout_has_the_version_of_its_code(monkeypatch):
    """Not another one than the same code installed: that would be a mixed sweep."""
    installed, missing = importlib.metadata.version, importlib.metadata.PackageNotFoundError

    def version(name):
        if name == "flowtracer":
            raise missing(name)
        return installed(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setattr(provenance, "_source_tree", lambda: Path(__file__).parents[2])
    provenance.versions.cache_clear()
    assert re.fullmatch(r"\d+\.\d+\.\d+", provenance.versions()["flowtracer"])
    provenance.versions.cache_clear()


def test_the_environment_is_one_hash_of_all_that_is_installed(monkeypatch):
    """Nine versions are named; the hash stands for the others too, in whatever order they are found."""

    class Installed:
        def __init__(self, name, version):
            self.name, self.version = name, version

    def hashed(*found):
        monkeypatch.setattr("importlib.metadata.distributions", lambda: iter(found))
        provenance.environment_hash.cache_clear()
        return provenance.environment_hash()

    one, other = Installed("torch", "2.13.0"), Installed("rich", "14.0")
    assert hashed(one, other) == hashed(other, one, Installed(None, None))
    assert hashed(one, other) != hashed(one, Installed("rich", "14.1"))
    provenance.environment_hash.cache_clear()


def test_hardware_and_tier_agree():
    found = provenance.hardware()
    assert found["cores"] >= 1 and found["memory_gigabytes"] >= 1 and found["processor"]
    assert provenance.tier() == ("T2" if found["gpu"] else "T0")


def test_commit_is_a_commit_or_nothing():
    assert re.fullmatch(r"([0-9a-f]{40}(\+changes)?)?", provenance.git_commit())


def test_untested_versions_are_named(monkeypatch):
    monkeypatch.setattr(
        provenance.importlib.metadata,
        "requires",
        lambda name: ["torch<1,>=0.4", "numpy>=1", 'vllm==0.31.0; extra == "vllm"'],
    )
    with pytest.raises(ExperimentError, match=r"torch is 2.*tested in versions <1,>=0.4: pip install"):
        provenance.check_versions()
    monkeypatch.setattr(
        provenance.importlib.metadata, "requires", lambda name: ["numpy>=1", "no-such-package>=2"]
    )
    with pytest.raises(ExperimentError, match="no-such-package is not installed"):
        provenance.check_versions()
