"""Protects whole runs on vLLM: trained, stopped, resumed and evaluated, with TRL's correction of its ratios at work."""

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import pytest

from harness import experiment as experiments
from harness.engines import vllm
from harness.engines.base import ENGINES, VLLM, EngineChoice, Sample, Sampling
from harness.journal import Journal
from harness.policy import load_policy
from harness.runs import evaluate, run
from harness.runs.recorder import RecordedTrainer
from leaderboards import read_run
from tests.harness import tiny

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


def tiny_experiment() -> experiments.Experiment:
    table = tiny.table(("flow",), 1, {"every": 4}, steps=4)
    return experiments.from_table({**table, "engine": VLLM}, "tiny")


def hashes(folder: Path) -> dict[str, Any]:
    recorded = read_run(folder)
    return {table: recorded.step_hashes(table) for table in ("rollouts", "steps")}


def test_a_run_from_start_to_end_and_one_that_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs: list[dict[str, float]] = []
    original = RecordedTrainer.log
    monkeypatch.setattr(
        RecordedTrainer,
        "log",
        lambda self, *a: logs.append(dict(self._metrics["train"])) or original(self, *a),
    )
    built = tiny_experiment()
    assert run.train(built, "flow", 0, tmp_path / "whole")
    ratios = [log["sampling/importance_sampling_ratio/mean"] for log in logs if "entropy" in log]
    assert len(ratios) == 4 and all(ratio == pytest.approx([1.0], abs=1e-3) for ratio in ratios)

    answers = itertools.chain([False], itertools.repeat(True))
    assert not run.train(built, "flow", 0, tmp_path / "cut", stop=lambda: next(answers))
    assert run.train(built, "flow", 0, tmp_path / "cut")
    assert hashes(tmp_path / "cut") == hashes(tmp_path / "whole")

    assert run.evaluate(built, "flow", 0, tmp_path / "whole")
    recorded = read_run(tmp_path / "whole")
    assert recorded.finished and recorded.manifest.versions["vllm"] != "not installed"
    assert recorded.closing["summary"]["left_out"] == 0
    assert recorded.manifest.tier == recorded.closing["summary"]["tier"] != "T0"
    steps, rows = recorded.table("steps").to_pylist(), recorded.table("rollouts").to_pylist()
    assert len(rows) == 4 * 16 and len({row["key"] for row in rows}) == len(rows)
    for step in steps:
        # The engine took the weights of each step: its log-probabilities are those of the policy that is trained.
        assert 0 < step["sampler_gap"] < 1e-5 and step["duplicate_share"] < 0.5
        assert step["distance_from_start"] > 0
    assert len(recorded.table("samples")) == 2 * 6


def test_a_gap_between_engine_and_trainer_is_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log-probabilities that are off by a factor of 30 a response: all its ratios leave TRL's bound, and no update is
    made of them. The record shows the gap.
    """
    original = vllm.Vllm._sample

    def off(self: Any, output: Any) -> Any:
        one = original(self, output)
        return Sample(
            one.ids, [value - 3.4 / len(one.ids) for value in one.logprobs], one.finish_reason, one.text
        )

    monkeypatch.setattr(vllm.Vllm, "_sample", off)
    assert run.train(tiny_experiment(), "flow", 0, tmp_path)
    for step in read_run(tmp_path).table("steps").to_pylist():
        assert step["sampler_gap"] > 0.1
        assert step["gradient_norm"] == 0
    assert run.evaluate(tiny_experiment(), "flow", 0, tmp_path)
    assert read_run(tmp_path).closing["summary"]["left_out"] == 1


def test_evaluation_on_vllm_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    import tasks

    task, held = tasks.get("decision"), load_policy("decision")
    problems = task.problems("test", 10)

    def asked(path: Path, progress: Any = lambda done, total: None) -> list[dict[str, Any]]:
        journal = Journal(path, {"engine": VLLM})
        try:
            return evaluate.evaluate(
                held, task, problems, Sampling(32), 3, 16, EngineChoice(VLLM), progress, journal
            )
        finally:
            journal.close()

    def stop(done: int, total: int) -> None:
        if done == 12:
            raise KeyboardInterrupt

    whole = asked(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        asked(tmp_path / "cut", stop)
    assert len((tmp_path / "cut").read_text().splitlines()) == 1 + 12
    begun: list[int] = []
    assert asked(tmp_path / "cut", lambda done, total: begun.append(done)) == whole
    assert begun[0] == 12 and begun[-1] == 30
    assert len({row["key"] for row in whole}) == 30


def test_greedy_evaluation_is_that_of_transformers() -> None:
    import tasks

    task, held = tasks.get("decision"), load_policy("decision")
    rows = [
        evaluate.evaluate(held, task, task.problems("test", 10), Sampling(32, 0.0), 1, 10, EngineChoice(name))
        for name in ENGINES
    ]
    assert rows[0] == rows[1]
