"""Protects commands from what lies around them: modules in the current folder, closed or poor outputs, signals."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from harness import ExperimentError, experiment, parallel, surroundings
from harness.runs import run
from harness.sweeps import sweep
from leaderboards import RecordError, RunWriter, load

ROOT = Path(__file__).parents[2]
#: As an installed console script: its own folder is first on its path, and the current one is not on it.
SCRIPT = "import sys\nfrom harness.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"

#: The console script of accelerate, which starts the processes of one run.
ACCELERATE = "import sys\nfrom accelerate.commands.accelerate_cli import main\nsys.exit(main())\n"

TINY = """
title = "tiny"
seeds = 1
[declaration]
metric = "training_reward_area"
smallest_difference = 0.01
[policy]
name = "decision"
[task]
name = "decision"
contexts = 4
[training]
steps = 4
prompts_per_step = 2
samples_per_prompt = 4
max_response_tokens = 32
learning_rate = 1e-3
save_every = 2
[evaluation]
every = 4
problems = 4
[methods.uniform]
"""


def script(folder, code=SCRIPT, name="flowtracer"):
    """The command line that runs the code as a script in a folder of its own."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(code)
    return [sys.executable, str(path)]


def flowtracer(*arguments, cwd, **keywords):
    """The command as installed, its packages by PYTHONPATH, as in a development checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **keywords.pop("env", {})}
    options = {"capture_output": True, "text": True, "timeout": 300, **keywords}
    return subprocess.run([*script(cwd.parent), *map(str, arguments)], cwd=cwd, env=environment, **options)


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path / "tiny.toml"


POISON = (
    "import pathlib\npathlib.Path({mark!r}).open('a').write(__name__ + '\\n')\nraise SystemExit('poisoned')\n"
)


@pytest.fixture
def poisoned(tmp_path):
    """A folder whose modules leave their name in a file when one of them is imported, and end the process."""
    folder = tmp_path / "poisoned"
    folder.mkdir()
    text = POISON.format(mark=str(tmp_path / "imported"))
    for name in ("random", "datasets", "types", "queue"):
        (folder / f"{name}.py").write_text(text)
    for name in ("tasks", "flowtracer", "leaderboards", "harness"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(text)
    return folder


def test_no_process_of_a_sweep_imports_from_the_current_folder(tiny, poisoned, tmp_path):
    """A user's random.py, and another copy of the four packages, lie where the sweep is started."""
    done = flowtracer("reproduce", tiny, "--out", tmp_path / "runs", "--workers", "1", cwd=poisoned)
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()
    assert done.returncode == 0, done.stderr
    (recorded,) = load(tmp_path / "runs")
    assert recorded.finished


@pytest.mark.parametrize("form", ["script", "module"])
def test_no_process_of_accelerate_imports_from_the_current_folder(tiny, poisoned, tmp_path, form):
    """Training on two processes, and the evaluation in a process that the first of them starts.

    `-m harness.cli` finds another harness/ first, and no code of ours runs: that form is for folders without one.
    """
    command = [*script(tmp_path, ACCELERATE, "accelerate"), "launch", "--num_processes", "2"]
    command += ["--config_file", str(parallel.FOLDER / "ddp.yaml"), "--main_process_port", "0"]
    started = script(tmp_path)[1:]
    if form == "module":
        started = ["-m", "harness.cli"]
        shutil.rmtree(poisoned / "harness")
        (poisoned / "types.py").unlink()  # the interpreter itself asks for it, before anything of ours
    done = subprocess.run(
        [*command, *started, "train", str(tiny), "--method", "uniform", "--out", str(tmp_path / "runs")],
        cwd=poisoned,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()
    assert done.returncode == 0, done.stderr
    (recorded,) = load(tmp_path / "runs")
    assert recorded.finished and recorded.manifest.processes == 2


def test_the_folder_of_a_checkout_stays_on_the_path(monkeypatch, tmp_path):
    # Where the packages are installed, a checkout is a folder like any other.
    packages = Path(surroundings.__file__).resolve().parents[1]
    for here, stays in ((packages, True), (tmp_path, False)):
        monkeypatch.chdir(here)
        monkeypatch.setattr(sys, "path", [str(here), "/elsewhere"])
        surroundings.leave_current_folder()
        assert (str(here) in sys.path) == stays and "/elsewhere" in sys.path


def test_no_verifier_imports_from_the_current_folder(poisoned, tmp_path):
    code = "from tasks.verify import pool; print(pool.shared().compare('value', '1/2', '0.5', {}, 60)[0])"
    done = subprocess.run(
        script(tmp_path, code),
        cwd=poisoned,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()
    assert done.returncode == 0 and done.stdout.strip() in ("equal", "correct", "yes", "same"), done.stdout


@pytest.mark.parametrize("package", ["tasks", "leaderboards"])
@pytest.mark.parametrize("kind", ["file", "folder", "empty"])
def test_a_module_that_hides_a_package_is_named_with_its_path(package, kind, tmp_path):
    """A user's own tasks.py on PYTHONPATH, or a folder tasks/."""
    mine = tmp_path / "mine"
    mine.mkdir()
    hiding = mine / f"{package}.py" if kind == "file" else mine / package / "__init__.py"
    hiding.parent.mkdir(exist_ok=True)
    hiding.write_text("")
    if kind == "empty":  # a folder without __init__.py hides nothing
        hiding.unlink()
    done = flowtracer("tasks", cwd=tmp_path, env={"PYTHONPATH": f"{mine}{os.pathsep}{ROOT}"})
    if kind == "empty":
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert str(hiding) in line and package in line and "rename it" in line


def test_nothing_hides_the_packages_here():
    assert surroundings.hidden_packages() == []


@pytest.mark.parametrize("command", ["claims", "tasks"])
def test_a_closed_standard_output_is_no_traceback(command, tmp_path):
    line = " ".join(f"'{part}'" for part in [*script(tmp_path), command])
    done = subprocess.run(
        ["bash", "-c", f"{line} >&-"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


def test_an_output_without_the_characters_of_a_table_gets_others(tmp_path):
    done = flowtracer("claims", cwd=tmp_path, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "+-" in done.stdout and done.stdout.isascii()
    assert "".join(surroundings.PLAIN[each] for each in "─┼●│▲▼") == "-+o|^v"


def test_sigterm_saves_as_ctrl_c_does(tiny, tmp_path):
    """Sent to every process of the sweep, as a batch system does."""
    tiny.write_text(TINY.replace("steps = 4", "steps = 400").replace("every = 4", "every = 400"))
    folder = tmp_path / "runs"
    process = subprocess.Popen(
        [*script(tmp_path), "reproduce", str(tiny), "--out", str(folder), "--workers", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(12_000):
        if list(folder.glob("*/*/checkpoint/checkpoint-*/whole")) or process.poll() is not None:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors and errors.splitlines()[-1].startswith("flowtracer: stopped;")
    (recorded,) = load(folder)
    steps = recorded.step_numbers("steps")
    saved = max(int(path.parent.name.split("-")[1]) for path in folder.glob("*/*/checkpoint/*/whole"))
    assert saved == len(steps), "the step that it was in is saved, not only the one before"


def test_an_experiment_file_with_a_byte_order_mark_is_read(tiny):
    plain = experiment.load(str(tiny))
    tiny.write_text(TINY, encoding="utf-8-sig")
    assert experiment.load(str(tiny)).hash == plain.hash


def test_an_output_folder_that_is_none_is_one_line(tiny, tmp_path):
    built = experiment.load(str(tiny))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, words in (
        ("file", "is a file"),
        ("link", "which is not there"),
        ("file/below", "cannot be written to"),
    ):
        with pytest.raises(ExperimentError, match=words) as caught:
            sweep.claim(built, tmp_path / name)
        assert "--out" in str(caught.value) and "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that even root cannot write to")
def test_a_folder_that_cannot_be_written_to_is_one_line(tiny):
    with pytest.raises(ExperimentError, match="cannot be written to .*--out"):
        sweep.claim(experiment.load(str(tiny)), Path("/sys/kernel/flowtracer"))


def test_a_finished_folder_is_not_written_to(tiny, tmp_path):
    """It may be an archive: what stands there is what would be written."""
    built, folder = experiment.load(str(tiny)), tmp_path / "runs"
    sweep.claim(built, folder)
    before = (folder / "experiment.json").stat().st_ino
    sweep.claim(built, folder)
    assert (folder / "experiment.json").stat().st_ino == before
    assert json.loads((folder / "experiment.json").read_text())["experiment_hash"] == built.hash


def test_jobs_that_begin_at_once_in_a_new_folder_do_not_refuse_each_other(tiny, tmp_path, monkeypatch):
    """A Slurm array: another job writes its file aside, or claims the folder and begins its run, in between."""
    built, folder, exists = experiment.load(str(tiny)), tmp_path / "runs", Path.exists
    folder.mkdir()
    (folder / ".experiment.json.of-another-job").write_text("{")

    def meanwhile(path: Path, **options: object) -> bool:
        there = exists(path, **options)
        if path == folder / "experiment.json" and not there:
            monkeypatch.undo()
            sweep.claim(built, folder)
            (folder / "uniform").mkdir()
        return there

    monkeypatch.setattr(Path, "exists", meanwhile)
    sweep.claim(built, folder)
    assert json.loads((folder / "experiment.json").read_text())["experiment_hash"] == built.hash


def test_a_temporary_folder_too_long_for_a_socket_is_one_line(tiny, tmp_path):
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    deep.mkdir(parents=True)
    done = flowtracer("reproduce", tiny, "--out", tmp_path / "runs", cwd=tmp_path, env={"TMPDIR": str(deep)})
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "set TMPDIR to a folder with a short path" in done.stderr


def test_links_to_runs_are_followed_once(tmp_path, tiny):
    RunWriter(tmp_path / "elsewhere", run.manifest(experiment.load(str(tiny)), "uniform", 0))
    links = tmp_path / "links"
    links.mkdir()
    (links / "one").symlink_to(tmp_path / "elsewhere")
    (links / "again").symlink_to(tmp_path / "elsewhere")
    (links / "round").symlink_to(links)
    assert len(load(links)) == 1
    shutil.rmtree(tmp_path / "elsewhere")
    with pytest.raises(RecordError, match="is a link to .*elsewhere, which is not there"):
        load(links)


WITHOUT = """
import sys
class Without:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Without())
from harness.cli import main
if __name__ == "__main__":
    sys.exit(main(["leaderboard", "nothing"]))
"""


def test_the_extra_that_the_command_line_needs_is_named(tmp_path):
    """`pip install flowtracer` brings the console script, and not what it needs."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        extra = tomllib.load(file)["project"]["optional-dependencies"]["harness"]
    names = {re.split(r"[\[><=]", requirement)[0].replace("-", "_") for requirement in extra}
    assert names == surroundings.EXTRA

    def started(name):
        path = tmp_path / "without.py"
        path.write_text(WITHOUT.format(name=name))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, path], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )

    done = started("pyarrow")
    assert done.returncode == 2
    assert done.stderr == "flowtracer: pyarrow is not installed: pip install 'flowtracer[harness]'\n"
    assert "Traceback" in started("numpy").stderr  # no module of the extra: no mistake of the user's
