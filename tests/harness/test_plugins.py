"""Protects methods of one's own: a file in another folder reaches the leaderboard, and a broken one is one line."""

import hashlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowtracer import CreditError, credit
from harness import cli, plugins
from harness import experiment as experiments
from harness.errors import ExperimentError
from tasks import TaskError
from tests.harness import tiny

METHOD = """
from dataclasses import dataclass
from flowtracer.credit import CreditMethod, register
from helping_it import most

@register
@dataclass(frozen=True)
class Halving(CreditMethod):
    '''Later tokens count less.'''
    name = "halving"
    factor: float = 0.5
    def weights(self, context):
        return self.factor ** context.response.cumsum(1).clamp(max=most).float()
"""


@pytest.fixture(autouse=True)
def _nothing_stays():
    yield
    plugins.forget()
    sys.modules.pop("helping_it", None)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "helping_it.py").write_text("most = 4\n")
    path = tmp_path / "halving_credit.py"
    path.write_text(METHOD)
    return path


def flowtracer(folder, *arguments):
    """The command line as a user's process in a folder of the user's own."""
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "harness.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


def test_a_method_of_ones_own_reaches_the_leaderboard_with_two_workers(file):
    table = tiny.table({"uniform": {}, "halving": {"factor": 0.7}})
    (file.parent / "mine.toml").write_text(tiny.toml({"imports": ["halving_credit.py"], **table}))
    # Relative to the experiment file, wherever the command is started.
    (file.parent / "elsewhere").mkdir()
    done = flowtracer(file.parent / "elsewhere", "reproduce", "../mine.toml", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "halving" in done.stdout and "finished halving seed 1" in done.stderr
    assert len(list((file.parent / "elsewhere" / "runs" / "mine").glob("halving/*/finished.json"))) == 2


def test_import_makes_a_method_known_to_a_command(file, capsys):
    assert cli.main(["methods", "halving", "--import", str(file)]) == 0
    assert "factor" in capsys.readouterr().out
    plugins.forget()
    assert cli.main(["methods", "halving"]) == 2
    assert "unknown credit method 'halving'" in (line := capsys.readouterr().err)
    assert "--import FILE or imports = [FILE]" in line and line.count("\n") == 1


def test_a_class_is_named_with_its_module(file):
    plugins.load([str(file)])
    method = credit.get("halving_credit:Halving", factor=0.25)
    assert method.factor == 0.25 and credit.get("halving") == type(method)()
    for name, message in [
        ("halving_credit:Nothing", "has no class 'Nothing'"),
        ("no_such_module_here:It", "does not import .*by --import no_such_module_here.py"),
        ("pathlib:Path", "no subclass of flowtracer.credit.CreditMethod"),
    ]:
        with pytest.raises(CreditError, match=message):
            credit.get(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import no_such_module_here\n",
            "ModuleNotFoundError: No module named 'no_such_module_here' (line 1",
        ),
        ("x = 1\nx = (\n", "SyntaxError: "),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("x = 1\n", "registers nothing: put @flowtracer.credit.register"),
        (METHOD.replace('"halving"', '"flow"').replace("from helping_it import most", ""), "'flow' of "),
    ],
)
def test_a_broken_plugin_is_one_line_and_leaves_nothing(tmp_path, capsys, text, message):
    (tmp_path / "broken_credit.py").write_text(text)
    shipped = credit.names(), type(credit.get("flow"))
    assert cli.main(["methods", "--import", str(tmp_path / "broken_credit.py")]) == 2
    line = capsys.readouterr().err
    assert message in line and "broken_credit.py" in line and line.count("\n") == 1
    assert (credit.names(), type(credit.get("flow"))) == shipped
    assert "broken_credit" not in sys.modules and not plugins.loaded()


PLAIN = """
from flowtracer.credit import CreditMethod, register
@register
class Plain(CreditMethod):
    name: str = "plain"
    needs: frozenset[str] = frozenset()
    scope: str = "group"
    signed: bool = True
    def weights(self, context):
        return context.response.float()
"""


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
def test_a_class_without_options_may_annotate_what_every_method_says_of_itself(tmp_path, future):
    """As editors and type checkers suggest. None of these is an option, so no decorator is needed."""
    (tmp_path / "plain_credit.py").write_text(future + PLAIN)
    plugins.load(["plain_credit.py"], tmp_path)
    method = credit.get("plain")
    assert method.signed and method.scope == "group"


def test_a_dataclass_that_makes_its_name_an_option_is_told_how_to_write_it(tmp_path):
    text = METHOD.replace('name = "halving"', 'name: str = "halving"').replace(
        "from helping_it", "most = 4 #"
    )
    (tmp_path / "named_credit.py").write_text(text)
    with pytest.raises(
        ExperimentError, match="makes 'name' an option .*: write `name = ...`, or annotate it Class"
    ):
        plugins.load(["named_credit.py"], tmp_path)
    said = "from typing import ClassVar\n" + text.replace("name: str", "name: ClassVar[str]")
    (tmp_path / "named_credit.py").write_text(said)
    plugins.load(["named_credit.py"], tmp_path)
    assert credit.get("halving", factor=0.25).name == "halving"


def test_names_that_are_no_plugin(tmp_path):
    for name, message in [
        ("none.py", "none.py cannot be read"),
        ("no_such_module_here", "no_such_module_here fails to import: ModuleNotFoundError"),
    ]:
        with pytest.raises(ExperimentError, match=message):
            plugins.load([name], tmp_path)
    for name, message in [("random.py", "another module 'random'"), ("my-credit.py", "rename the file")]:
        (tmp_path / name).write_text(METHOD)
        with pytest.raises(ExperimentError, match=message):
            plugins.load([name], tmp_path)
    with pytest.raises(ExperimentError, match="imports must be an array of files"):
        experiments.from_table({"imports": "mine.py", **tiny.table()}, "tiny")


def test_imports_are_no_part_of_the_experiment(file):
    table = tiny.table()
    plain = experiments.from_table(table, "tiny")
    assert experiments.from_table({"imports": [str(file)], **table}, "tiny").resolved() == plain.resolved()
    assert [plugin.text for plugin in plugins.loaded()] == [METHOD]


def test_another_process_runs_the_text_that_was_read(file):
    plugins.load([str(file)])
    (plugin,) = plugins.loaded()
    plugins.forget()
    file.write_text("raise RuntimeError('edited since')")
    plugins.take([plugin])
    assert credit.get("halving").factor == 0.5


def test_parts_hold_the_files_of_ones_own_and_no_other(file):
    plugins.load([str(file)])
    parts = plugins.parts([type(credit.get("halving"))])
    assert list(parts) == ["halving_credit.py", "helping_it.py"]
    assert parts["halving_credit.py"]["text"] == METHOD
    assert parts["helping_it.py"]["sha256"] == hashlib.sha256(b"most = 4\n").hexdigest()
    assert plugins.parts([type(credit.get("flow"))]) == {}
    assert parts["halving_credit.py"]["imported"] and not parts["helping_it.py"]["imported"]


def test_runs_by_other_code_do_not_join_a_sweep(file, tmp_path):
    from harness.commands.shared import Bars
    from harness.sweeps import sweep
    from leaderboards import load

    table = {"imports": [str(file)], **tiny.table({"uniform": {}, "halving": {}}, seeds=2)}
    runs, only = tmp_path / "runs", [("halving", 0)]
    with Bars("tiny") as progress:
        sweep.reproduce(experiments.from_table(table, "tiny"), runs, 1, progress, only)
    manifest = load(runs)[0].manifest
    assert manifest.credit["options"] == {"mean_one": False, "factor": 0.5}
    assert manifest.credit["class"] == "halving_credit:Halving"
    assert manifest.code["halving_credit.py"]["text"] == METHOD

    plugins.forget()
    file.write_text(METHOD.replace("0.5", "0.25"))
    edited, notes = experiments.from_table(table, "tiny"), []
    progress.note = notes.append
    message = r"halving: 1 finished run was made by other code: halving_credit.py \w{8} -> \w{8}, factor 0.5 -> 0.25; "
    with pytest.raises(ExperimentError, match=message):
        sweep.reproduce(edited, runs, 1, progress)
    with Bars("tiny") as progress:  # nothing joins what is finished: it is said, and no more
        progress.note = notes.append
        sweep.reproduce(edited, runs, 1, progress, only)
    assert len(notes) == 1 and notes[0].endswith("factor 0.5 -> 0.25")


def test_installed_packages_offer_methods_and_tasks(file, monkeypatch):
    points = {"flowtracer.credit": "halving_credit:Halving", "flowtracer.tasks": "no_such_module_here:It"}

    def entry_points(group):
        return [importlib.metadata.EntryPoint("one", points[group], group)] if group in points else []

    from flowtracer.credit import method
    from tasks import problem

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.syspath_prepend(str(file.parent))
    for registry in (method, problem):
        registry._load_installed.cache_clear()
    try:
        assert credit.get("halving").factor == 0.5 and "halving" in credit.names()
        with pytest.raises(
            TaskError, match=r"offers the task one = no_such_module_here:It, which does not import"
        ):
            problem.get("mine")
    finally:
        method._REGISTRY.pop("halving", None)
        sys.modules.pop("halving_credit", None)
        monkeypatch.undo()
        for registry in (method, problem):
            registry._load_installed.cache_clear()
