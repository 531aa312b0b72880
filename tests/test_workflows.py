"""The forge: actions pinned by hash, superseded runs cancelled, each extra installed before a release."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def read(name: str) -> dict[Any, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())


def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def noxfile() -> ast.Module:
    return ast.parse((ROOT / "noxfile.py").read_text())


def sessions() -> set[str]:
    return {item.name for item in noxfile().body if isinstance(item, ast.FunctionDef) and item.decorator_list}


def value(name: str) -> Any:
    """A constant of noxfile.py, which is not imported: a test environment may lack nox."""
    for item in noxfile().body:
        if isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == name:
            return ast.literal_eval(item.value)
    raise AssertionError(name)


def test_the_workflows_are_those_that_these_tests_know() -> None:
    assert [file.stem for file in FILES] == ["ci", "newest", "release"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_action_is_pinned_by_hash_with_its_version_beside(file: Path) -> None:
    """A tag can be moved to other code, which would then run with the rights of a release."""
    lines = re.findall(r"uses:.*", file.read_text())
    assert len(lines) == len([step for step in steps(read(file.stem)) if "uses" in step]) > 0
    wrong = [
        line
        for line in lines
        if not re.fullmatch(r"uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)
    ]
    assert wrong == []


def test_an_action_has_the_same_version_everywhere() -> None:
    """Two versions side by side mean that one update was forgotten."""
    used = {line for file in FILES for line in re.findall(r"uses: (\S+ # \S+)", file.read_text())}
    names = [line.split("@")[0] for line in used]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_workflow_may_read_and_ends(file: Path) -> None:
    """Rights are given by the job that needs them; a run that hangs costs six hours unless it has a limit."""
    workflow = read(file.stem)
    assert workflow["permissions"] == {"contents": "read"}
    longer = {
        name: job["timeout-minutes"] for name, job in workflow["jobs"].items() if job["timeout-minutes"] > 60
    }
    assert longer == ({"all": 90} if file.stem == "ci" else {})
    assert {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job} == (
        {"publish": {"id-token": "write"}} if file.stem == "release" else {}
    )


def test_superseded_runs_are_cancelled_and_releases_are_not() -> None:
    assert read("ci")["concurrency"]["cancel-in-progress"] is True
    assert "${{ github.ref }}" in read("ci")["concurrency"]["group"], "a pull request would end another's run"
    assert read("release")["concurrency"]["cancel-in-progress"] is False


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_session_that_is_asked_for_exists(file: Path) -> None:
    """`nox -s a b -- arguments`; a session that a matrix names stands in its rows."""
    lines = [step["run"] for step in steps(read(file.stem)) if "run" in step]
    asked = re.findall(r"nox -s ([\w ]+?)(?: --|$)", "\n".join(lines), re.M)
    names = {word for sessions_asked in asked for word in sessions_asked.split()}
    for job in read(file.stem)["jobs"].values():
        names |= {row["session"] for row in job.get("strategy", {}).get("matrix", {}).get("include", [])}
    assert names and names <= sessions()


def test_the_sets_of_versions_are_the_ends_of_what_the_project_allows() -> None:
    """A range that is widened and not tested at its new end."""
    sets = value("VERSIONS")
    ranges = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["lora"]]
    for name in ("transformers", "trl", "peft"):
        (text,) = [line for line in ranges if line.startswith(name)]
        major, first, after = re.match(rf"{name}>=(\d+)\.(\d+),<\1\.(\d+)", text).groups()
        pinned = {pin for end in ("oldest", "newest") for pin in sets[end] if pin.startswith(f"{name}==")}
        minors = sorted(int(re.match(rf"{name}=={major}\.(\d+)\.\d+$", pin)[1]) for pin in pinned)
        assert minors == [int(first), int(after) - 1]


def test_hooks_leave_alone_what_a_program_wrote() -> None:
    """Policies are larger than an added file may be, and their tokenizers have no line break at their end."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    policies = [file.relative_to(ROOT).as_posix() for file in (ROOT / "harness" / "policies").glob("*/*.*")]
    assert policies and all(re.search(config["exclude"], file) for file in policies)


def test_the_first_job_checks_rules_spelling_and_large_files() -> None:
    """Hooks run where somebody installed them; a tag of another repository could be moved to other code."""
    assert read("ci")["jobs"]["lint"]["steps"][-1]["run"].endswith("nox -s lint hooks")
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    listed = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {"typos", "check-added-large-files", "end-of-file-fixer"} <= {hook["id"] for hook in listed}
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    added = [pin for hook in listed for pin in hook.get("additional_dependencies", ())]
    assert added and [pin for pin in added if "==" not in pin] == []
    (large,) = [hook["entry"] for hook in listed if hook["id"] == "check-added-large-files"]
    assert "--enforce-all" in large, "it would look at staged files only, of which CI has none"


def test_coverage_runs_where_the_interpreter_counts_lines() -> None:
    """By a tracer it takes longer than a job may."""
    rows = read("ci")["jobs"]["tests"]["strategy"]["matrix"]["include"]
    (python,) = [row["python"] for row in rows if row["session"] == "coverage"]
    assert tuple(map(int, python.split("."))) >= (3, 12)


def test_ci_runs_on_every_python_that_the_project_names() -> None:
    jobs = read("ci")["jobs"]
    versions = {row["python"] for row in jobs["tests"]["strategy"]["matrix"]["include"]}
    versions |= {
        step["with"]["python-version"]
        for step in jobs["all"]["steps"]
        if "python-version" in step.get("with", {})
    }
    named = {line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert versions == named != set()


def test_the_weekly_job_takes_the_newest_of_transformers_trl_and_torch() -> None:
    """Sets that pin nothing: one of three libraries, which no range holds, and one of all that the project allows."""
    job = read("newest")["jobs"]["newest"]
    assert job["steps"][-1]["run"].endswith("nox -s tests_versions -- ${{ matrix.set }}")
    assert job["strategy"]["matrix"]["set"] == ["latest", value("ALLOWED")]
    assert value("VERSIONS")["latest"] == ("transformers", "trl", "peft")
    assert value("ALLOWED") not in value("VERSIONS")


def test_the_weekly_job_is_weekly() -> None:
    """YAML 1.1 reads the key `on` as true."""
    minute, hour, *_, weekday = read("newest")[True]["schedule"][0]["cron"].split()
    assert minute.isdigit() and hour.isdigit() and weekday.isdigit()


def test_a_release_installs_the_wheel_with_each_extra() -> None:
    """An extra that is added and not tried would fail first on a user's machine."""
    extras = ["none", *PROJECT["optional-dependencies"]]
    assert list(value("IMPORTS")) == extras
    assert read("release")["jobs"]["install"]["strategy"]["matrix"]["extra"] == extras


def test_a_release_publishes_what_was_built_and_checked() -> None:
    release = read("release")
    assert release[True]["push"]["tags"] == ["v[0-9]*"]
    jobs = release["jobs"]
    assert jobs["publish"]["needs"] == ["build", "install"] and jobs["install"]["needs"] == "build"
    assert jobs["publish"]["environment"] == "pypi"
    # No password anywhere: the index trusts this workflow.
    assert "secrets" not in (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert not [step for step in jobs["publish"]["steps"] if "run" in step], (
        "code of the project beside the right to publish"
    )


def test_dependabot_moves_actions_and_packages() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    assert {(entry["package-ecosystem"], entry["schedule"]["interval"]) for entry in updates} == {
        ("github-actions", "weekly"),
        ("pip", "weekly"),
    }


def test_coverage_measures_the_four_packages_and_asks_for_ninety_percent() -> None:
    tool = PYPROJECT["tool"]
    packages = tool["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert tool["coverage"]["run"]["source_pkgs"] == packages == list(value("PACKAGES"))
    assert value("LEAST_COVERAGE") == 90
    # A limit of coverage's own would end the session before every package is named.
    assert "fail_under" not in tool["coverage"]["report"]


def test_the_core_tests_exist() -> None:
    core = value("CORE")
    assert core and [name for name in core if not (ROOT / name).exists()] == []


def test_the_version_is_dated_in_the_changelog_and_the_same_in_the_citation() -> None:
    version = PROJECT["version"]
    headings = re.findall(r"^## \[(.*?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    dated = dict(headings)
    assert re.fullmatch(r" - \d{4}-\d{2}-\d{2}", dated[version])
    assert next(name for name, _ in headings if name != "Unreleased") == version
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert str(citation["date-released"]) == dated[version].removeprefix(" - ")
