"""The command that repeats recorded runs: from a commit, with the experiment file and the modules written out."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from harness import experiment as experiments
from harness.errors import ExperimentError
from leaderboards.declaration import BASELINE, NOT_DECLARED

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_END = "END_OF_FILE"


def repeat(comparison: Any) -> str:
    """The shell commands that repeat the runs of a comparison, from the commit that they were made on.

    A shipped experiment is named. Of another one the file is in the commands, and so are modules of a user's own. A
    script is no part of its records: only the comparison can be made again.
    """
    if comparison.foreign:
        column = shlex.quote(comparison.experiment["value"])
        return f"{_leaderboard(comparison, shlex.quote(comparison.experiment['file']))} --column {column}"
    # An older record may lack the key; here it says that the rule was given for the comparison.
    if comparison.experiment["declaration"].get("stopping") == NOT_DECLARED:
        return f"# a script made these runs: run it again, into FOLDER\n{_leaderboard(comparison, 'FOLDER')}"
    manifests = [score.run.manifest for score in comparison.scores.values()]
    commits = {manifest.git_commit for manifest in manifests}
    commit, changed, _ = (commits.pop() if len(commits) == 1 else "").partition("+changes")
    note = "  # it had changes that were not committed" if changed else ""
    checkout = f"git checkout {commit}{note}\n" if commit else ""
    name, options = _shipped(comparison.experiment)
    options += _more_seeds(comparison)
    code = {file: record for manifest in manifests for file, record in (manifest.code or {}).items()}
    if name is not None and not code:
        return f"{checkout}nox -s reproduce -- {name}{options}"
    written, imports = _modules(code)
    if name is None:
        name = f"{comparison.experiment.get('name') or 'experiment'}.toml"
        written = _heredoc(name, toml(comparison.experiment)) + written
    return f"{checkout}{written}nox -s reproduce -- {shlex.quote(name)}{options}{imports}"


def _leaderboard(comparison: Any, place: str) -> str:
    """The command that compares runs which declare nothing, by the rule that was given for them."""
    least = comparison.smallest_difference
    exact = f"{least:g}" if float(f"{least:g}") == least else repr(least)
    rule = f"--smallest-difference {exact} --metric {comparison.metric}"
    base = comparison.baseline
    other = f" --baseline {shlex.quote(base)}" if base != BASELINE else ""
    return f"flowtracer leaderboard {place} {rule}{other}"


def _more_seeds(comparison: Any) -> str:
    """The option that asks for seeds beyond those that were declared."""
    declared = comparison.experiment.get("seeds")
    more = max(seed for _, seed in comparison.scores) + 1 - declared if isinstance(declared, int) else 0
    return f" --more-seeds {more}" if more > 0 and not comparison.declaration.sequential else ""


def _shipped(recorded: Mapping[str, Any]) -> tuple[str | None, str]:
    """Name and options of the shipped experiment that this is, arms included; None where it is none."""
    name, options = str(recorded.get("name", "")), ""
    for variant in ("until-decided", "smoke"):
        if name.endswith(f"-{variant}"):
            name, options = name.removesuffix(f"-{variant}"), f" --{variant}{options}"
    if name not in experiments.names():
        return None, ""
    try:
        shipped = experiments.load(name, smoke="--smoke" in options, until_decided="--until" in options)
    except ExperimentError:
        return None, ""
    # A user's own file may have the name of a shipped one, and a shipped one may have changed since.
    return (name, options) if shipped.resolved() == recorded else (None, "")


def _modules(code: Mapping[str, Any]) -> tuple[str, str]:
    """Commands that write the modules, and the options that import them."""
    written, imports = "", ""
    for file, record in code.items():
        if "/" in file:
            written += f"# needs the installed module {file}, sha256 {record['sha256']}\n"
            continue
        written += _heredoc(file, record["text"])
        imports += f" --import {shlex.quote(file)}" if record.get("imported") else ""
    return written, imports


def _heredoc(file: str, text: str) -> str:
    return f"cat > {shlex.quote(file)} <<'{_END}'\n{text.rstrip(chr(10))}\n{_END}\n"


def toml(table: Mapping[str, Any], *place: str) -> str:
    """A table of plain values as the text of a TOML file; keys without a value are left out."""
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    lines = [f"[{'.'.join(map(_key, place))}]"] if place else []
    lines += [
        f"{_key(key)} = {_value(value)}"
        for key, value in table.items()
        if key not in inner and value is not None
    ]
    return "\n".join([*lines, *(toml(value, *place, key) for key, value in inner.items())])


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = (f"{_key(key)} = {_value(each)}" for key, each in value.items() if each is not None)
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)
