"""What is installed: the four packages with all their data and nothing else, each requirement at a chosen version."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from flowtracer import versions

ROOT = Path(__file__).parents[1]
PACKAGES = ("flowtracer", "harness", "leaderboards", "tasks")


@pytest.fixture(scope="module")
def distribution() -> importlib.metadata.Distribution:
    """The installed project, copied and not merely linked to this checkout."""
    try:
        found = importlib.metadata.distribution("flowtracer")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("flowtracer is not installed")
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        pytest.skip("flowtracer is installed in editable mode")
    return found


def requirements(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> Iterator[str]:
    """Names of all that `name` with these extras brings with it on this platform."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    for line in importlib.metadata.requires(name) or []:
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in ("", *extras)]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            needed = canonicalize_name(requirement.name)
            yield needed
            yield from requirements(needed, frozenset(requirement.extras), seen)


def pins() -> dict[str, Requirement]:
    """The lines of constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    read = [Requirement(line) for line in lines if line and not line.startswith("#")]
    named = {canonicalize_name(requirement.name): requirement for requirement in read}
    assert len(named) == len(read), "a package is constrained twice"
    return named


def test_every_file_of_the_packages_is_installed_and_nothing_else(
    distribution: importlib.metadata.Distribution,
) -> None:
    """A policy's weights or an experiment file left out of the wheel fail only on somebody else's machine."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *PACKAGES]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    expected = {PurePosixPath(name) for name in listed if name and (ROOT / name).exists()}
    files = [PurePosixPath(file) for file in distribution.files or []]
    installed = {file for file in files if file.suffix != ".pyc" and file.parts[0] in PACKAGES}
    assert installed == expected
    others = {file.parts[0] for file in files} - set(PACKAGES) - {".."}
    assert others == {f"flowtracer-{distribution.version}.dist-info"}


def test_every_requirement_is_pinned_to_what_is_installed(
    distribution: importlib.metadata.Distribution,
) -> None:
    """A package that constraints.txt forgets has another version on every machine and every day."""
    pinned = pins()
    needed = set(requirements("flowtracer", frozenset({"dev"}), set())) - {"flowtracer"}
    assert sorted(needed - pinned.keys()) == []
    versions = {name: importlib.metadata.version(name) for name in needed}
    assert {n: v for n, v in versions.items() if not pinned[n].specifier.contains(v, prereleases=True)} == {}


def test_the_method_installs_without_what_only_the_harness_needs() -> None:
    """An engineer with a trainer of her own must not get lm-eval, a LaTeX parser and an HTTP client along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    light = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    harness = {
        canonicalize_name(Requirement(line).name) for line in project["optional-dependencies"]["harness"]
    }
    assert {"torch", "transformers", "trl"} <= light
    assert {"math-verify", "pyarrow", "gguf", "httpx", "sympy", "scipy"} <= harness
    assert not light & harness


def test_importing_the_method_loads_neither_trl_nor_the_harness() -> None:
    """It loads no more than torch and transformers; the trainer loads TRL, where the harness's needs are absent."""
    script = (
        "import sys\n"
        "for name in ('gguf', 'lm_eval', 'math_verify', 'latex2sympy2_extended', 'tasks', 'leaderboards', 'harness'):\n"
        "    sys.modules[name] = None\n"  # importing it now fails, as where it is not installed
        "import flowtracer\n"
        "print(sorted({'trl', 'datasets', 'pyarrow', 'pandas', 'peft'} & set(sys.modules)))\n"
        "flowtracer.CreditGRPOTrainer\n"
        "print('trl' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "True"]


def test_versions_that_are_checked_are_those_that_pip_accepts() -> None:
    """Two lists, one in pyproject.toml for pip and one in the package for those who install something else later."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {line.name: line.specifier for line in map(Requirement, project["dependencies"])}
    for name, tested in versions.TESTED.items():
        assert [number for number in tested if f"{number[0]}.{number[1]}.0" not in asked[name]] == []
        before, after = (tested[0][0], tested[0][1] - 1), (tested[-1][0], tested[-1][1] + 1)
        for number in (before, after, *(number for package, number in versions.BROKEN if package == name)):
            assert f"{number[0]}.{number[1]}.0" not in asked[name], (name, number)


def test_pins_are_exact_and_fit_any_build_of_torch() -> None:
    """A local label such as +cpu would shut out the GPU build of the same version."""
    for requirement in pins().values():
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], str(requirement)
        assert "+" not in str(requirement) and "*" not in str(requirement), str(requirement)
    assert pins()["torch"].specifier.contains(Version("2.13.0+cu130"))
    assert "triton" not in pins(), "every build of torch brings its own"


def test_the_first_pages_install_from_the_checkout() -> None:
    """Nothing is published yet: `pip install flowtracer` would find nothing, or somebody else's package."""
    for page in ("README.md", "docs/start/install.md", "docs/start/quickstart.md", "CONTRIBUTING.md"):
        lines = re.findall(r"pip install [^\n`]*", (ROOT / page).read_text())
        assert [line for line in lines if re.search(r"[ '\"]flowtracer\b", line)] == [], page
    assert re.search(r"pip install [^\n`]*\.\[harness\]", (ROOT / "README.md").read_text())
