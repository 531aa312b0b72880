"""Protects the command line: a user's mistake is one line that names it, and exit status 2; never a traceback."""

import errno
import json
import shlex
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

import tasks
from flowtracer import credit
from harness import cli, experiment, plugins
from harness.commands import experiments, policies
from harness.policy import SMOLLM2_PACKAGE
from tests.harness import tiny
from tests.leaderboards import recorded_runs
from tests.leaderboards.recorded_runs import write_run

PLUGIN = """
from flowtracer.credit import CreditMethod, register
@register
class Mine(CreditMethod):
    name = 'mine'
    def weights(self, context): return context.response.float()
"""


def run(capsys, *arguments):
    """Exit status, standard output and standard error of one command."""
    try:
        status = cli.main(list(map(str, arguments)))
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "nothing"], "unknown experiment 'nothing'; known: "),
        (["reproduce", "missing.toml"], "missing.toml does not exist"),
        (["reproduce", "--workers", "0", "--out", "{tmp}/runs"], "--workers 0: give at least 1"),
        (["reproduce", "--out", "{tmp}"], "{tmp} is not empty and holds no experiment"),
        (["train", "decision", "--method", "floww"], "no method 'floww'; did you mean 'flow'?"),
        (["reproduce", "--plan", "--gpus", "1"], "--gpus goes with --ray"),
        (["reproduce", "decison"], "unknown experiment 'decison'; did you mean 'decision'?"),
        (["experiments", "decison"], "unknown experiment 'decison'; did you mean 'decision'?"),
        (["reproduce", "--out", "/dev/null/runs"], "--out /dev/null/runs cannot be written to"),
        (
            ["train", "decision", "--method", "flow", "--out", "{tmp}/something"],
            "--out {tmp}/something cannot be",
        ),
        (
            ["evaluate", "decision", "decision", "--out", "/dev/null/x"],
            "/dev/null/x cannot be written: Not",
        ),
        (["train", "decision", "--method", "flow", "--seed", "8"], "declares seeds 0 to 7"),
        (
            ["reproduce", "--set", "evaluation.problems=1000", "--out", "{tmp}/runs"],
            "evaluation.problems is 1000, and decision has 320 test problems: give at most 320",
        ),
        (["leaderboard", "{tmp}/none"], "no such folder"),
        (["leaderboard", "{tmp}", "--export", "x.pdf"], "must end in .json, .csv, .md, .html"),
        (["doctor", "{tmp}"], "no run in it"),
        (["claims", "--export", "{tmp}/none/x.md"], "there is no folder {tmp}/none that can be written to"),
        (["trace", "--html", "{tmp}/none/x.html"], "there is no folder {tmp}/none that can be written to"),
        (["evaluate", "no-such-policy", "decision"], "no-such-policy"),
        (["evaluate", "decision", "gsm9k"], "unknown task 'gsm9k'"),
        (["trace", "--task", "gsm9k"], "unknown task 'gsm9k'"),
        (["evaluate", "decision", "decision:variant"], "write options as NAME:OPTION=VALUE"),
        (["evaluate", "decision", "decision:variant=x"], "no variant 'x'"),
        (
            ["train", "decision", "--method", "flow", "--seed", "-1"],
            "--seed -1: give at least 0; see flowtracer",
        ),
        (["evaluate", "decision", "decision", "--chat"], "policy decision has no chat template"),
        (["evaluate", "decision", "decision", "--system", "Be brief."], "read without a chat template"),
        (
            ["trace", "--policy", "decision", "--task", "decision", "--problem", "999"],
            "has problems 0 to 319",
        ),
        (["tasks", "gsm9k"], "unknown task 'gsm9k'"),
        (["validate", "gsm9k"], "unknown task 'gsm9k'"),
        (["train", "decision", "--method", "flow", "--sede", "3"], "--sede 3; did you mean '--seed'?"),
        (["reproduce", "--wokers", "3"], "did you mean '--workers'?; see flowtracer reproduce --help"),
        (
            ["reproduce", "--workers", "x"],
            "--workers x: give a whole number, at least 1; see flowtracer reproduce",
        ),
        (["leaderbord"], "invalid choice: 'leaderbord'; did you mean 'leaderboard'?; see flowtracer --help"),
        (["--import", "x.py", "methods"], "--import goes behind the command: flowtracer COMMAND --import"),
    ],
)
def test_mistakes_are_one_line_and_status_2(capsys, tmp_path, arguments, message):
    (tmp_path / "something").write_text("here")
    arguments = [text.format(tmp=tmp_path) for text in arguments]
    status, output, errors = run(capsys, *arguments)
    assert status == 2
    assert message.format(tmp=tmp_path) in errors
    assert errors.startswith("flowtracer: ") and errors.count("\n") == 1
    assert not output


def test_a_full_disk_is_one_line(capsys, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x")

    monkeypatch.setattr(experiments, "_reproduce", full)
    status, _, errors = run(capsys, "reproduce")
    assert status == 2
    assert (
        errors
        == "flowtracer: the disk is full while writing runs/x: free some space and run the same command again\n"
    )


def test_a_full_gpu_is_one_line(capsys, monkeypatch):
    def full(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee documentation")

    monkeypatch.setattr(policies, "_trace", full)
    status, _, errors = run(capsys, "trace")
    assert status == 2 and errors.count("\n") == 1
    assert "memory is full: CUDA out of memory" in errors and "CUDA_VISIBLE_DEVICES=" in errors


def test_defects_are_not_dressed_up_as_mistakes(monkeypatch):
    def broken(_):
        raise ValueError("a defect")

    monkeypatch.setattr(experiments, "_reproduce", broken)
    with pytest.raises(ValueError, match="a defect"):
        cli.main(["reproduce"])


def test_tasks_are_listed_and_shown(capsys):
    import tasks

    status, output, _ = run(capsys, "tasks")
    assert status == 0 and all(name in output for name in tasks.names())
    status, output, _ = run(capsys, "tasks", "decision")
    assert status == 0 and "decision/test/0" in output and "gold" in output


@pytest.mark.parametrize("arguments", ["--help", "tasks"])
def test_looking_around_loads_nothing_heavy(arguments):
    """Listing names takes a tenth of a second; with torch or the data sets it takes five."""
    heavy = {"torch", "transformers", "trl", "datasets", "scipy", "pyarrow", "vllm", "lm_eval"}
    script = (
        "import sys; from harness import cli\n"
        "try: cli.main(sys.argv[1:])\nexcept SystemExit: pass\n"
        f"print(sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, arguments], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]" and done.stdout


def test_experiments_are_listed_and_shown(capsys):
    from harness import experiment

    status, output, _ = run(capsys, "experiments")
    assert status == 0 and all(name in output for name in experiment.names())
    status, output, _ = run(capsys, "experiments", "decision")
    assert status == 0
    assert all(label in output for label in experiment.load("decision").methods)
    assert "smallest difference" in output and "training reward (mean over steps)" in output


def test_methods_are_listed_and_shown(capsys):
    status, output, _ = run(capsys, "methods")
    assert status == 0 and all(name in output for name in credit.names())
    status, output, _ = run(capsys, "methods", "flow")
    assert status == 0 and "gamma" in output and "1.5" in output and "arXiv 2606.10646" in output
    assert run(capsys, "methods", "flwo")[0] == 2


def test_the_version_names_what_results_depend_on(capsys):
    status, output, _ = run(capsys, "--version")
    assert status == 0 and output.startswith("flowtracer ") and f"torch {torch.__version__}" in output


def test_what_to_type_next_keeps_plugins_and_changes(capsys, tmp_path, monkeypatch):
    """The line is pasted: without them it would be another experiment, or none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "arm.toml").write_text("[methods.mine]\n")
    given = [
        "--smoke",
        "--import",
        "mine.py",
        "--add",
        "arm.toml",
        "--set",
        "training.steps=7",
        "--out",
        "my runs",
    ]
    try:
        status, _, errors = run(capsys, "reproduce", "decision", *given, "--plan", "--more-seeds", "1")
    finally:
        plugins.forget()
    assert status == 0 and not (tmp_path / "my runs").exists()
    (line,) = [line for line in errors.splitlines() if line.startswith("next: ")]
    assert shlex.split(line)[1:] == ["flowtracer", "reproduce", "decision", *given, "--more-seeds", "1"]


def test_what_a_plan_says_to_type_next_runs_as_was_asked(capsys, monkeypatch):
    """On the same machines, as many at once, and shown in the same tracker, which need not be installed here."""
    monkeypatch.setattr("harness.trackers.check", lambda *_: None)
    given = ["--workers", "3", "--ray", "local", "--gpus", "0.5", "--report-to", "tensorboard"]
    status, _, errors = run(capsys, "reproduce", "decision", *given, "--plan")
    assert status == 0
    assert errors == f"next: flowtracer reproduce decision {' '.join(given)}\n"


def test_a_plan_counts_seeds_beyond_the_declared_ones_and_what_is_there(
    capsys, monkeypatch, tmp_path, tiny_experiment
):
    """Adding to a finished sweep costs what is missing of it. Finished runs of something else are no part of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(tiny.toml(tiny.table()))
    command = ["reproduce", "tiny.toml", "--plan", "--more-seeds", "3"]
    status, output, _ = run(capsys, *command)
    assert status == 0 and "10: 2 arms x 5 seeds" in output and "finished" not in output
    declared = experiment.load("tiny.toml")
    made = {"experiment": declared.resolved(), "experiment_hash": declared.hash}
    write_run(tmp_path / "runs" / "tiny", "flow", 0, [0.1], **made)
    write_run(tmp_path / "runs" / "tiny", "uniform", 1, [0.1])
    _, output, _ = run(capsys, *command)
    assert "1 of these 10 runs are finished in runs/tiny, and are not made again." in output


def test_a_missing_baseline_is_said_before_the_first_run(capsys, tmp_path):
    """A sweep of a day that cannot be compared with anything would be found out at its end."""
    file = tmp_path / "alone.toml"
    file.write_text('base = "decision"\ntitle = "flow alone"\n[methods.flow]\n')
    status, _, errors = run(capsys, "reproduce", file, "--out", tmp_path / "runs")
    assert status == 2 and "has no arm uniform" in errors and not (tmp_path / "runs").exists()


def test_evaluate_prints_every_verdict(capsys):
    status, output, _ = run(capsys, "evaluate", "decision", "decision", "--problems", "5", "--samples", "2")
    assert status == 0
    pairs = [line.split() for line in output.splitlines() if line.startswith("  ") and "%" not in line]
    counts = {verdict: int(count) for verdict, count in pairs}
    assert sum(counts.values()) == 10
    assert set(counts) == {"correct", "wrong", "no_answer", "truncated", "timeout", "error"}


def test_trace_prints_and_writes_a_page(capsys, tmp_path):
    page = tmp_path / "trace.html"
    arguments = ["trace", "--policy", "decision", "--task", "decision", "--layers", "all", "--html", page]
    status, output, _ = run(capsys, *arguments)
    assert status == 0
    assert "verdict: " in output and "decision/test/0" in output
    assert page.read_text().startswith("<!doctype html>") or page.read_text().lower().startswith(
        "<!doctype html>"
    )


@pytest.mark.skipif(find_spec(SMOLLM2_PACKAGE) is None, reason="the weights are not installed")
def test_a_bare_trace_shows_an_answer(capsys):
    status, output, _ = run(capsys, "trace")
    assert status == 0 and "verdict: correct" in output and "no answer found" not in output


def test_a_response_without_an_answer_is_traced_to_its_last_token_and_says_so(capsys):
    arguments = ["trace", "--policy", "decision", "--task", "decision", "--layers", "all"]
    status, output, _ = run(capsys, *arguments, "--response", "abc")
    assert status == 0 and "no answer found (task decision)" in output
    assert "answer 'c'" in output, "the text is kept, and its last token stands where the answer would"
    task = tasks.get("decision")
    answered = task.respond(task.problems("test")[0].gold)
    status, output, errors = run(capsys, *arguments, "--response", answered)
    assert status == 0 and "no answer found" not in output
    line = shlex.join(["flowtracer", *arguments, "--response", answered, "--html", "trace.html"])
    assert f"next: {line}\n" in errors, "pasted, it is the same response on a page"


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Two folders of sound runs that differ, one of damaged ones, and a plug-in, in a user's folder."""
    monkeypatch.chdir(tmp_path)
    for folder, reward in (("my runs", 0.25), ("others", 0.5)):
        for method in ("uniform", "flow"):
            made = {"experiment_hash": experiment.hash_of(recorded_runs.EXPERIMENT)}
            write_run(tmp_path / folder, method, 0, [reward, reward], **made)
    write_run(tmp_path / "damaged", "flow", 0, [0.25])  # its hash is that of another experiment
    (tmp_path / "mine.py").write_text(PLUGIN)
    yield
    plugins.forget()


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["tasks", "decision"], 2),
        (["tasks", "decision", "--import", "mine.py"], 2),
        (["experiments", "decision", "--import", "mine.py"], 1),
        (["claims"], 1),
        (["leaderboard", "my runs"], 1),
        (["compare", "my runs", "others"], 2),
        (["doctor", "my runs"], 1),
        (["doctor", "damaged"], 0),
    ],
    ids=str,
)
def test_what_a_command_says_to_type_next_is_a_command(capsys, places, arguments, count):
    """Pasted, it is understood: with the same plug-ins, and folders whose names have spaces."""
    _, _, errors = run(capsys, *arguments)
    lines = [line.removeprefix("next: ") for line in errors.splitlines() if line.startswith("next: ")]
    assert len(lines) == count, errors
    for line in lines:
        program, *words = shlex.split(line)
        options = cli._parser().parse_args(words)
        assert program == "flowtracer" and options.imports == (["mine.py"] if "mine.py" in arguments else [])
    assert count or "remove what is damaged and repeat the command" in errors


def test_train_leaderboard_and_doctor(capsys, tmp_path):
    """One run through the command line, read back by every command that reads."""
    folder = tmp_path / "runs"
    status, output, _ = run(
        capsys, "train", "decision", "--method", "uniform", "--seed", "1", "--smoke", "--out", folder
    )
    assert status == 0 and output.strip() == str(folder / "uniform" / "seed-0001")
    status, output, _ = run(capsys, "doctor", folder)
    assert status == 0 and output == "uniform seed 1: finished, sound\n"
    status, output, _ = run(capsys, "leaderboard", folder)
    assert status == 0 and "uniform" in output
    files = [tmp_path / f"board.{suffix}" for suffix in ("json", "csv", "md", "html")]
    each = [text for file in files for text in ("--export", file)]
    assert run(capsys, "leaderboard", folder, *each)[0] == 0
    assert all("uniform" in file.read_text() for file in files)
    assert json.loads((tmp_path / "board.json").read_text())
    status, _, errors = run(capsys, "leaderboard", folder, "--baseline", "grpo")
    assert status == 2 and "no runs of 'grpo'" in errors
    steps = folder / "uniform" / "seed-0001" / "steps.parquet"
    steps.write_bytes(steps.read_bytes()[:-40])
    status, output, _ = run(capsys, "doctor", folder)
    assert status == 2 and "damaged" in output and "steps.parquet" in output
