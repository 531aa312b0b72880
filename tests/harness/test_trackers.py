"""Protects what trackers are given: who may report, a run's name, group and configuration, its steps, its end.

Where they are installed, the real ones are read back after a sweep by two workers. Elsewhere modules that write down
their calls stand for Trackio and Weights & Biases.
"""

import json
import os
import shlex
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from harness import cli, trackers
from harness.errors import ExperimentError
from harness.runs import run as runs
from harness.runs.tracking import Followed, followed
from leaderboards import load, read_run
from tests.harness import tiny

LOGGED = {"loss": 0.5, "reward": 0.25, "credit/mean_weight": 1.0, "note": "text", "flag": True}


@pytest.fixture
def shown(tmp_path):
    return trackers.Tracked("tiny", "flow seed 1", tmp_path, {"arm": "flow", "training": {"steps": 3}})


@pytest.mark.parametrize(
    "command", [("train", "decision", "--method", "flow"), ("reproduce",), ("noise", "decision")]
)
def test_a_tracker_that_is_not_installed_is_one_line_before_anything_runs(
    capsys, monkeypatch, tmp_path, command
):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert cli.main([*command, "--report-to", "trackio", "--out", str(tmp_path / "runs")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "trackio is not installed: pip install 'flowtracer[trackio]'" in line
    assert not (tmp_path / "runs").exists()
    assert cli.main([*command, "--report-to", "trakio"]) == 2
    assert "did you mean 'trackio'?" in capsys.readouterr().err


#: Stands for Weights & Biases in a process of its own: logged in where KNOWN is set, broken where BROKEN is.
ASKED_WANDB = """
import os, sys
if "BROKEN" in os.environ:
    raise ImportError("cannot import name 'Any'\\nfrom partially initialized module")
def login(verify):
    assert not verify and not sys.stdin.isatty()
    if "KNOWN" not in os.environ:
        raise RuntimeError("api_key not configured (no-tty)")
    print("logged in as somebody")
"""


def test_nobody_logged_in(monkeypatch, tmp_path, capfd):
    """Weights & Biases itself is asked: it has hosts, settings and files of its own, and each version others.

    Where its installation is broken, that is the line, and not that nobody is logged in.
    """
    monkeypatch.setattr(trackers, "find_spec", lambda name: object())
    for name in ("WANDB_API_KEY", "WANDB_MODE", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "wandb.py").write_text(ASKED_WANDB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ExperimentError, match="nobody is logged in to Weights & Biases: run `wandb login`"):
        trackers.check("wandb")
    monkeypatch.setenv("KNOWN", "1")
    trackers.check("wandb")
    assert capfd.readouterr() == ("", ""), "neither its lines nor its questions are the user's"
    monkeypatch.setenv("BROKEN", "1")
    with pytest.raises(
        ExperimentError, match="installed and does not import: from partially init.*install it anew"
    ):
        trackers.check("wandb")
    monkeypatch.delenv("BROKEN")
    monkeypatch.delenv("KNOWN")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_API_KEY", "secret")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            trackers.check("wandb")
    trackers.check("trackio")
    trackers.check(None)
    with pytest.raises(ExperimentError, match="each machine would keep its runs to itself"):
        trackers.check("trackio", cluster=True)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/board")
    with pytest.raises(ExperimentError, match="run `hf auth login`"):
        trackers.check("trackio", cluster=True)


@pytest.mark.parametrize(
    ("name", "way"), [("wandb", "or set WANDB_MODE=offline"), ("trackio", "leave --report-to out")]
)
def test_a_tracker_that_does_not_take_a_run_is_one_line(shown, monkeypatch, name, way):
    """A wrong key, or no network: it shows when the first run is opened, which is before its first step."""
    stand_in = ModuleType(name)
    stand_in.Settings = dict

    def init(**_):
        raise RuntimeError("no such host\nwhile retrying")

    stand_in.init = init
    monkeypatch.setitem(sys.modules, name, stand_in)
    with pytest.raises(ExperimentError) as refused:
        trackers.opened(name, shown, resumed=False)
    line = str(refused.value)
    assert f"--report-to {name}: it does not take flow seed 1: no such host;" in line and way in line
    assert "\n" not in line


def test_steps_reach_a_tracker_and_what_sums_a_training_up_does_not(shown):
    seen = []
    follow = Followed(SimpleNamespace(log=lambda step, values: seen.append((step, values))))
    state = SimpleNamespace(global_step=7, is_world_process_zero=True)
    follow.on_log(None, state, None, logs=LOGGED)
    assert seen == [(7, {"train/loss": 0.5, "train/reward": 0.25, "train/credit/mean_weight": 1.0})]
    follow.on_log(None, state, None, logs={"train_runtime": 3.0})
    follow.on_log(None, state, None)
    follow.on_log(None, SimpleNamespace(global_step=8, is_world_process_zero=False), None, logs=LOGGED)
    assert len(seen) == 1


def test_a_run_is_ended_in_its_tracker_whatever_ends_its_training(shown, monkeypatch):
    calls = []
    tracker = SimpleNamespace(close=lambda: calls.append("closed"))
    monkeypatch.setattr(
        "harness.runs.tracking.opened", lambda *arguments: calls.append(arguments[2:]) or tracker
    )
    trainer = SimpleNamespace(add_callback=lambda callback: calls.append(type(callback)))
    with pytest.raises(KeyError), followed(trainer, "trackio", shown, 4):
        raise KeyError
    assert calls == [(True, 4), Followed, "closed"]
    with followed(trainer, None, shown, None):
        pass
    assert len(calls) == 3, "without a tracker nothing is opened"


def test_a_run_is_shown_and_its_record_is_what_it_was(tiny_experiment, tmp_path, monkeypatch):
    """Every step and evaluation reaches the tracker, with the resolved arm; the record does not change."""
    seen = {}

    class Kept:
        def __init__(self, run, resumed, after):
            self.points = seen.setdefault(resumed, [])
            seen["run"] = run

        def log(self, step, values):
            self.points.append((step, values))

        def close(self):
            self.points.append("closed")

    experiment = tiny_experiment(("uniform", "flow"), steps=2)
    monkeypatch.setattr(trackers, "_Trackio", Kept)
    for folder, name in ((tmp_path / "plain", None), (tmp_path / "shown", "trackio")):
        assert runs.train(experiment, "flow", 1, folder, report_to=name)
        assert runs.evaluate(experiment, "flow", 1, folder, report_to=name)
    plain, shown = read_run(tmp_path / "plain"), read_run(tmp_path / "shown")
    assert all(plain.content_hash(table) == shown.content_hash(table) for table in ("rollouts", "samples"))
    *steps, closed = seen[False]
    assert [step for step, _ in steps] == [1, 2] and closed == "closed"
    rewards = shown.table("steps")["reward"].to_pylist()
    assert [values["train/reward"] for _, values in steps] == pytest.approx(rewards)
    assert "train/credit/mean_weight" in steps[0][1]
    evaluations = [step for step, _ in seen[True][:-1]]
    assert evaluations == experiment.evaluation_steps()
    config = seen["run"].config
    assert seen["run"].name == "flow seed 1" and seen["run"].experiment == experiment.name
    assert config["arm"] == config["credit"] == "flow" and config["credit_options"]["gamma"] == 1.5
    assert config["credit_task"] == "decision" and config["training"]["steps"] == 2
    assert json.loads(json.dumps(config)) == config


def test_tensorboard_files_lie_in_the_runs_folder(shown, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = trackers.opened("tensorboard", shown, resumed=False)
    for step in (1, 2, 3):
        first.log(step, {"train/loss": float(step)})
    first.close()
    again = trackers.opened("tensorboard", shown, resumed=True, after=2)
    again.log(3, {"train/loss": 9.0})
    again.close()
    late = trackers.opened("tensorboard", shown, resumed=True)
    late.log(0, {"evaluation/tiny": 0.5})
    late.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    points = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert points == [(1, 1.0), (2, 2.0), (3, 9.0)], "what came after the checkpoint is written anew, once"
    assert [event.step for event in events.Scalars("evaluation/tiny")] == [0]
    assert b'"arm": "flow"' in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def test_trackio_keeps_one_run_over_a_stop(shown, tmp_path, monkeypatch, capsys):
    calls = []
    stand_in = ModuleType("trackio")
    run = SimpleNamespace(log=lambda values, step: calls.append((step, values)))
    stand_in.init = lambda **options: calls.append(options) or print("* Trackio") or run
    stand_in.finish = lambda: calls.append("finished") or print("* Uploading")
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    for resumed in (False, True):
        tracker = trackers.opened("trackio", shown, resumed)
        tracker.log(1, {"train/loss": 0.5})
        tracker.close()
    first, *_, again, _, _ = calls
    assert (first["project"], first["group"], first["name"]) == ("tiny", "tiny", "flow seed 1")
    assert first["resume"] == "never" and again["resume"] == "allow", "a run made anew is not the old one"
    assert first["config"] == shown.config
    assert calls.count((1, {"train/loss": 0.5})) == 2 and calls.count("finished") == 2
    assert capsys.readouterr().out == "", "standard output is for results"


@pytest.fixture
def wandb_calls(monkeypatch):
    """What a stand-in for Weights & Biases is told. Its run is offline or disabled as the environment says."""
    calls = []
    stand_in = ModuleType("wandb")

    def init(**options):
        calls.append(options)
        (folder := Path(options["dir"], "wandb", f"offline-run-{len(calls)}-{options['id']}")).mkdir(
            parents=True
        )
        mode = os.environ.get("WANDB_MODE")
        return SimpleNamespace(
            log=calls.append,
            define_metric=lambda *_, **__: None,
            finish=lambda: calls.append("finished"),
            offline=mode == "offline" or folder.rmdir(),
            disabled=mode == "disabled",
        )

    stand_in.init, stand_in.Settings = init, dict
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    for name in ("WANDB_PROJECT", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_weights_and_biases_goes_on_with_the_id_of_the_run(shown, wandb_calls):
    ids = []
    for resumed in (False, True, False):
        tracker = trackers.opened("wandb", shown, resumed)
        tracker.log(3, {"train/loss": 0.5})
        tracker.close()
        ids.append(wandb_calls[-3]["id"])
        assert wandb_calls[-2:] == [{"train/loss": 0.5, "step": 3}, "finished"]
    assert ids[0] == ids[1] != ids[2]
    options = wandb_calls[0]
    assert (options["project"], options["group"], options["name"]) == ("flowtracer", "tiny", "flow seed 1")
    assert (
        trackers.where("wandb", Path("runs/tiny"), "tiny")
        == "project flowtracer of Weights & Biases, group tiny"
    )


def logged_last(calls):
    """The steps that were logged since the last opening."""
    opening = max(place for place, call in enumerate(calls) if isinstance(call, dict) and "id" in call)
    return [row["step"] for row in calls[opening + 1 :] if row != "finished"]


def opened_once(shown, mode, monkeypatch, steps, resumed=True, after=None):
    """One opening of the run with that WANDB_MODE, and the points that it logs."""
    monkeypatch.setenv("WANDB_MODE", mode)
    tracker = trackers.opened("wandb", shown, resumed, after)
    for step in steps:
        tracker.log(step, {"value": float(step)})
    tracker.close()


def test_a_run_that_began_online_is_whole_in_the_files_that_go_on_offline(shown, wandb_calls, monkeypatch):
    """The error line for a network that is down recommends WANDB_MODE=offline; a later sync replaces the curve."""
    opened_once(shown, "online", monkeypatch, (1, 2, 3), resumed=False)
    opened_once(shown, "offline", monkeypatch, (3,), after=2)
    assert logged_last(wandb_calls) == [1, 2, 3]
    assert wandb_calls[0]["id"] == wandb_calls[-5]["id"]


def test_files_that_were_kept_offline_are_no_trap_once_the_run_is_online(shown, wandb_calls, monkeypatch):
    """Synced after the run went on online, they would replace what came since: their points go online instead."""
    opened_once(shown, "offline", monkeypatch, (1, 2), resumed=False)
    opened_once(shown, "disabled", monkeypatch, ())
    assert logged_last(wandb_calls) == [] and len(list((shown.folder / "wandb").iterdir())) == 1
    opened_once(shown, "online", monkeypatch, (3,))
    assert logged_last(wandb_calls) == [1, 2, 3] and not list((shown.folder / "wandb").iterdir())
    opened_once(shown, "online", monkeypatch, (4,))
    assert logged_last(wandb_calls) == [4], "the site has the others"


def test_a_point_that_was_cut_off_does_not_keep_a_run_from_going_on(shown, wandb_calls, monkeypatch):
    """By a kill, or a full disk. A damaged line before the last one is nobody's cut: it is named."""
    opened_once(shown, "offline", monkeypatch, (1, 2), resumed=False)
    points = shown.folder / trackers.WANDB_POINTS
    with points.open("a") as file:
        file.write('{"va')
    opened_once(shown, "offline", monkeypatch, (3,))
    assert logged_last(wandb_calls) == [1, 2, 3]
    assert [json.loads(line)["step"] for line in points.read_text().splitlines()] == [1, 2, 3]
    points.write_text('{"va\n' + points.read_text())
    with pytest.raises(ExperimentError, match=r"wandb.jsonl: line 1 is no point; remove that line"):
        trackers.opened("wandb", shown, resumed=True)


def test_a_stop_while_points_are_logged_again_loses_none(shown, wandb_calls, monkeypatch):
    opened_once(shown, "offline", monkeypatch, (1, 2), resumed=False)
    init = sys.modules["wandb"].init

    def stopped(_):
        raise KeyboardInterrupt

    def interrupted(**options):
        run = init(**options)
        run.log = stopped
        return run

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["wandb"], "init", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trackers.opened("wandb", shown, resumed=True)
    opened_once(shown, "offline", monkeypatch, ())
    assert logged_last(wandb_calls) == [1, 2]


def test_where_to_look_can_be_pasted_with_a_space_in_its_folder_or_name():
    line = trackers.where("tensorboard", Path("my runs") / "tiny", "tiny")
    assert shlex.split(line) == ["tensorboard", "--logdir", "my runs/tiny"]
    line = trackers.where("trackio", Path("my runs"), "my experiment")
    assert shlex.split(line) == ["trackio", "show", "--project", "my experiment"]


@pytest.mark.parametrize("mode", ["offline", "dryrun", "disabled", "online"])
def test_only_runs_that_are_kept_here_are_there_to_sync(monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    line = trackers.where("wandb", Path("runs"), "tiny")
    assert (line is not None and "wandb sync" in line) == (mode in ("offline", "dryrun"))
    assert (line is None) == (mode == "disabled"), "it holds nothing of them: there is no place to look"


def test_the_last_files_of_a_run_that_is_kept_offline_hold_all_of_it(shown, wandb_calls, monkeypatch):
    """`wandb sync` lets the files of a later opening replace those of an earlier one: its curves would be gone."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for resumed, after, steps in ((False, None, (1, 2, 3)), (True, 2, (3, 4)), (True, None, (0,))):
        tracker = trackers.opened("wandb", shown, resumed, after)
        for step in steps:
            tracker.log(step, {"value": float(step)})
        tracker.close()
    last = max(place for place, call in enumerate(wandb_calls) if isinstance(call, dict) and "id" in call)
    assert logged_last(wandb_calls) == [1, 2, 3, 4, 0]
    assert len(list((shown.folder / "wandb").iterdir())) == 1
    trackers.opened("wandb", shown, resumed=False).log(1, {"value": 7.0})
    assert wandb_calls[-2]["id"] != wandb_calls[last]["id"] and wandb_calls[-1] == {"value": 7.0, "step": 1}
    assert len(list((shown.folder / "wandb").iterdir())) == 1, (
        "a run made anew leaves nothing of the old one to sync"
    )
    command = trackers.where("wandb", Path("my runs"), "tiny")
    assert command == "wandb sync 'my runs'/*/*/wandb/offline-run-*"


def tensorboard_runs(folder, names):
    """Name -> points (step, value) by tag, and the configuration, of each run as TensorBoard reads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = {}
    for name in names:
        label, _, seed = name.split()
        events = EventAccumulator(str(folder / "runs" / label / f"seed-{seed:0>4}" / "tensorboard"))
        events.Reload()
        points = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        (config,) = events.Tensors("config/text_summary")[0].tensor_proto.string_val
        read[name] = points, json.loads(config.decode().removeprefix("```json\n").removesuffix("\n```"))
    return read


#: Trackio's own command line, several times in one process: it takes seconds to start.
ASKED = """
import contextlib, io, json, sys
from trackio.cli import main

def asked(*words):
    sys.argv = ["trackio", "get", *words, "--project", "tiny", "--json"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        main()
    return json.loads(said.getvalue())

answers = {}
for name in sys.argv[1:]:
    tags = {tag: asked("metric", "--run", name, "--metric", tag) for tag in ("train/reward", "evaluation/decision")}
    answers[name] = tags, asked("run", "--run", name)["config"]
print(json.dumps(answers))
"""


def trackio_runs(folder, names):
    """The same of Trackio, from a process of its own."""
    environment = {**os.environ, "TRACKIO_DIR": str(folder / "trackio")}
    command = [sys.executable, "-c", ASKED, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert all(config["_Group"] == "tiny" for _, config in answers.values())
    return {
        name: ({tag: [(e["step"], e["value"]) for e in tags[tag]["values"]] for tag in tags}, config)
        for name, (tags, config) in answers.items()
    }


def wandb_runs(folder, names):
    """The same of Weights & Biases, from the files that `wandb sync` would send: a run has one."""
    from wandb.proto import wandb_internal_pb2

    read = {}
    for name in names:
        label, _, seed = name.split()
        place = folder / "runs" / label / f"seed-{seed:0>4}" / "wandb"
        (file,) = place.glob("offline-run-*/run-*.wandb")
        config, points = {}, {}
        for content in logged(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(content)
            if record.WhichOneof("record_type") == "run":
                assert (record.run.run_group, record.run.display_name) == ("tiny", name)
                config = {update.key: json.loads(update.value_json) for update in record.run.config.update}
            items = {
                (item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item
            }
            for tag in items.keys() & {"train/reward", "evaluation/decision"}:
                points.setdefault(tag, []).append((items["step"], items[tag]))
        read[name] = points, config
    return read


def logged(content, block=32768):
    """The records of LevelDB's log format: blocks of parts with checksum, length and kind (1 whole, 4 last)."""
    at, record = 7, b""
    while at < len(content):
        room = block - at % block
        if room < 7:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


READERS = {"tensorboard": tensorboard_runs, "trackio": trackio_runs, "wandb": wandb_runs}


@pytest.mark.slow
@pytest.mark.parametrize(("tracker", "read"), READERS.items())
def test_a_sweep_by_two_workers_is_whole_in_the_real_tracker(tmp_path, monkeypatch, tracker, read):
    """By the command, from a folder of the user's. A worker that opened no run, another's, or one twice would show."""
    if find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed: pip install 'flowtracer[{tracker}]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "tiny.toml").write_text(tiny.toml(tiny.table(steps=3)))
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(cli.__file__).parents[1]),
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }
    command = [sys.executable, "-P", "-m", "harness.cli", "reproduce", "tiny.toml", "--out", "runs"]
    command += ["--workers", "2", "--report-to", tracker]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"next: {trackers.where(tracker, Path('runs'), 'tiny')}" in done.stderr
    recorded = {f"{run.method} seed {run.seed}": run for run in load(tmp_path / "runs")}
    assert len(recorded) == 4
    for name, (points, config) in read(tmp_path, list(recorded)).items():
        run = recorded[name]
        steps = [(row["step"] + 1, pytest.approx(row["reward"])) for row in run.table("steps").to_pylist()]
        assert points["train/reward"] == steps
        samples = run.table("samples").to_pylist()
        for step, value in points["evaluation/decision"]:
            rewards = [row["reward"] for row in samples if row["step"] == step]
            assert value == pytest.approx(sum(rewards) / len(rewards))
        assert [step for step, _ in points["evaluation/decision"]] == [0, 3]
        assert (config["arm"], config["seed"], config["credit"]) == (run.method, run.seed, run.method)
