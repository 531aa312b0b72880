"""Protects scores: every sample is asked once with its own noise, judged once by its own ending, and counted once."""

import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from harness import ExperimentError, seeds
from harness.engines.base import Sampling
from harness.engines.keyed import sample
from harness.journal import Journal
from harness.policy import Policy, character_tokenizer
from harness.runs import evaluate
from leaderboards.estimates import over_problems
from tasks import Problem, Task, Verdict
from tasks.verify import pool

COLUMNS = {
    "task", "problem_id", "sample", "key", "text", "response_tokens", "finish_reason", "verdict", "reward",
}  # fmt: skip


class Starts(Task):
    """Right when the response begins with the gold letter; `g` cannot be judged, and `h` is no answer."""

    name: ClassVar[str] = "starts"
    source = licence = answer_format = "test"

    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        return [
            Problem(f"starts/{index}", "ab\nd"[: 1 + index % 4] + "? \n", "abcdef"[index % 6])
            for index in range(9)
        ][:limit]

    def extract(self, text: str) -> tuple[int, int] | None:
        return (0, 1) if text and text[0] in "abcdefg" else None

    def judge(self, problem: Problem, answer: str) -> Verdict:
        if answer == "g":
            return Verdict.ERROR
        return Verdict.CORRECT if answer == problem.gold else Verdict.WRONG


@pytest.fixture(scope="module")
def policy() -> Policy:
    tokenizer = character_tokenizer("abcdefgh?# \n")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=64, pad_token_id=0,
            eos_token_id=1, bos_token_id=None, tie_word_embeddings=True,
        )  # fmt: skip
        model = Qwen3ForCausalLM(config).eval()
    model.generation_config = GenerationConfig(eos_token_id=[1], pad_token_id=0)
    return Policy(model, tokenizer)


def test_rows_are_the_samples_themselves(policy: Policy) -> None:
    """Against the same samples drawn one by one: prompts exact, keys by problem and index, ending by ending."""
    task = Starts()
    problems = task.problems("test")
    rows = evaluate.evaluate(policy, task, problems, Sampling(4), samples=3, batch_size=5)
    assert [(row["problem_id"], row["sample"]) for row in rows] == [
        (problem.id, index) for problem in problems for index in range(3)
    ]
    assert len({row["key"] for row in rows}) == len(rows)
    for number, row in enumerate(rows):
        problem = problems[number // 3]
        key = seeds.key("evaluation", "starts", problem.id, number % 3)
        ids = policy.encode(task.prompt(problem))
        (one,) = sample(policy.model, policy.tokenizer, [ids], [key], Sampling(4))
        verdict = task.verify(problem, one.text, one.finish_reason)
        assert row == {
            "task": "starts",
            "problem_id": problem.id,
            "sample": number % 3,
            "key": key,
            "text": one.text,
            "response_tokens": len(one.ids),
            "finish_reason": one.finish_reason,
            "verdict": str(verdict),
            "reward": None if verdict == "error" else float(verdict == "correct"),
        }
        assert row.keys() == COLUMNS and type(row["text"]) is str
    seen = {row["verdict"] for row in rows}
    assert {"wrong", "truncated", "error"} <= seen, "the example does not cover what it should"


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batches_do_not_matter(policy: Policy, batch_size: int) -> None:
    task = Starts()

    def asked(problems: Sequence[Problem], **options: int) -> list[dict]:
        return evaluate.evaluate(policy, task, problems, Sampling(3), samples=2, **options)

    expected = asked(task.problems("test"))
    assert asked(task.problems("test"), batch_size=batch_size) == expected
    some = task.problems("test")[::-2]
    alone = asked(some)
    assert alone == [row for problem in some for row in expected if row["problem_id"] == problem.id]


def test_accuracy_leaves_out_what_could_not_be_judged() -> None:
    def rows(problem: str, *rewards: float | None) -> list[dict]:
        return [{"problem_id": problem, "reward": reward} for reward in rewards]

    assert evaluate.accuracy(rows("a", 1.0, 0.0, None) + rows("b", 1.0) + rows("c", None)) == 0.75
    assert evaluate.accuracy(rows("a", 1.0) + rows("b", float("nan"))) == 1.0
    assert np.isnan(evaluate.accuracy(rows("a", None)))


def test_accuracy_is_the_mean_of_the_reports() -> None:
    """Trackers and `evaluate` show the number that a report computes from the same samples, bit for bit."""
    pairs = [(f"problem {number % 7}", (number * number % 5) / 3) for number in range(50)]
    rows = [{"problem_id": problem, "reward": reward} for problem, reward in pairs]
    assert evaluate.accuracy(rows) == over_problems(pairs)


def test_nothing_judged_is_no_score_and_no_crash(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Starts, "verify", lambda *_: Verdict.ERROR)
    rows = evaluate.evaluate(policy, Starts(), Starts().problems("test", 2), Sampling(2))
    assert [row["reward"] for row in rows] == [None, None]


def test_no_global_generator_moves(policy: Policy) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    evaluate.evaluate(policy, Starts(), Starts().problems("test", 2), Sampling(2))
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(before[0], after[0]) and np.array_equal(before[1], after[1]) and before[2] == after[2]


def test_progress_counts_samples_and_nothing_else_is_printed(
    policy: Policy, capfd: pytest.CaptureFixture[str]
) -> None:
    reports: list[tuple[int, int]] = []
    evaluate.evaluate(
        policy, Starts(), Starts().problems("test"), Sampling(2), samples=2, batch_size=10,
        progress=lambda done, total: reports.append((done, total)),
    )  # fmt: skip
    assert reports == [(done, 18) for done in range(19)]
    assert capfd.readouterr() == ("", "")


def test_greedy_takes_one_sample(policy: Policy) -> None:
    problems = Starts().problems("test", 3)
    rows = evaluate.evaluate(policy, Starts(), problems, Sampling(3, temperature=0))
    assert (
        rows == evaluate.evaluate(policy, Starts(), problems, Sampling(3, temperature=0)) and len(rows) == 3
    )


@pytest.mark.parametrize(
    ("options", "temperature", "said"),
    [
        ({"samples": 0}, 1.0, "at least 1"),
        ({"batch_size": 0}, 1.0, "at least 1"),
        ({"samples": 2}, 0.0, "duplicates"),
    ],
)
def test_meaningless_options_are_refused(
    policy: Policy, options: dict[str, int], temperature: float, said: str
) -> None:
    with pytest.raises(ExperimentError, match=said):
        evaluate.evaluate(
            policy, Starts(), Starts().problems("test"), Sampling(3, temperature=temperature), **options
        )


def test_problems_need_to_be_there_and_different(policy: Policy) -> None:
    with pytest.raises(ExperimentError, match="empty"):
        evaluate.evaluate(policy, Starts(), [], Sampling(3))
    with pytest.raises(ExperimentError, match="starts/0 is listed twice"):
        evaluate.evaluate(policy, Starts(), Starts().problems("test", 1) * 2, Sampling(3))


def test_a_stopped_evaluation_goes_on_sample_by_sample(policy: Policy, tmp_path: Path) -> None:
    """As after a kill while a line was written: what is whole is not drawn again, what is not is, and nothing twice."""
    problems = Starts().problems("test")
    identity = {"policy": "x", "temperature": 1.0}

    def asked(path: Path, progress: evaluate.Progress = lambda done, total: None) -> list[dict]:
        journal = Journal(path, identity)
        try:
            return evaluate.evaluate(
                policy,
                Starts(),
                problems,
                Sampling(4),
                samples=2,
                batch_size=6,
                progress=progress,
                journal=journal,
            )
        finally:
            journal.close()

    def stop(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    whole = asked(tmp_path / "whole")
    path = tmp_path / "deep" / "cut"
    with pytest.raises(KeyboardInterrupt):
        asked(path, stop)
    assert len(path.read_text().splitlines()) == 1 + 8
    path.write_bytes(path.read_bytes()[:-20])
    reports: list[int] = []
    assert asked(path, lambda done, total: reports.append(done)) == whole
    assert reports == list(range(7, 19))
    assert sorted(path.read_text().splitlines()) == sorted((tmp_path / "whole").read_text().splitlines())
    assert asked(path, lambda done, total: reports.append(done)) == whole and reports[-1] == 18


def test_a_file_of_other_samples_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    Journal(path, {"task": "starts", "temperature": 1.0}).close()
    with pytest.raises(ExperimentError, match="holds samples with temperature 1.0, not 0.5"):
        Journal(path, {"task": "starts", "temperature": 0.5})
    first = Journal(path, {"task": "starts", "temperature": 1.0})
    with pytest.raises(ExperimentError, match="in use by another command"):
        Journal(path, {"task": "starts", "temperature": 1.0})
    first.close()
    path.write_text(path.read_text() + '{"problem_id": 3}\n')
    with pytest.raises(ExperimentError, match="line 2 is no sample"):
        Journal(path, {"task": "starts", "temperature": 1.0})
    with pytest.raises(ExperimentError, match="cannot be used"):
        Journal(tmp_path, {})


def test_slow_verdicts_are_asked_for_while_samples_are_drawn(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows, where verdicts that need a worker are found by other threads."""
    problems, judges = Starts().problems("test"), set()
    expected = evaluate.evaluate(policy, Starts(), problems, Sampling(4), samples=2)
    monkeypatch.setattr(Starts, "slow", True)
    original = Starts.judge

    def judge(task: Starts, problem: Problem, answer: str) -> Verdict:
        if pool.shared().deadline == 0:
            return Verdict.TIMEOUT  # as a comparison does that would need a worker
        judges.add(threading.current_thread().name)
        return original(task, problem, answer)

    monkeypatch.setattr(Starts, "judge", judge)
    assert evaluate.evaluate(policy, Starts(), problems, Sampling(4), samples=2) == expected
    assert judges and all(name.startswith("verifier") for name in judges)


def test_what_goes_wrong_while_a_sample_is_added_is_not_lost(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk for one: in a thread it would be forgotten."""

    def full(self: Journal, row: dict) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Starts, "slow", True)
    monkeypatch.setattr(Journal, "add", full)
    with pytest.raises(OSError, match="No space left"):
        evaluate.evaluate(policy, Starts(), Starts().problems("test", 2), Sampling(4))
