"""Protects rollouts from a vLLM server: its samples are those of vLLM in the process, of the weights that it was given
last and of one run alone, and what is wrong with it is one line. Runs where vLLM is (`nox -s tests_vllm`).
"""

import fcntl
import importlib.util
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import httpx
import pytest

from harness import cli, experiment
from harness.engines import choice, server, vllm
from harness.engines.base import ALONE, VLLM, Engine, EngineChoice, EngineError, Sampling
from harness.experiment import task_of
from harness.policy import load_policy
from harness.runs import run
from harness.runs.checkpoints import policy_folder
from leaderboards import read_run
from tests.harness import tiny
from tests.harness.test_parallel import TINY, launch, same_run
from tests.vllm.serving import Serving
from tests.vllm.test_engine import keys

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")

ROWS, LENGTH, CONTEXT = 8, 20, 64


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    one = Serving("decision", "--context", str(CONTEXT), "--vllm=--max-num-seqs=16")
    yield one
    one.kill()


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    yield
    server.release()


def start(address: str, name: str = "decision") -> Engine:
    return choice.start(EngineChoice(VLLM, address), load_policy(name), CONTEXT, ROWS, ALONE)


def prompts(count: int) -> list[list[int]]:
    policy = load_policy("decision")
    return [policy.encode(one.question) for one in task_of({"name": "decision"}).problems("test", count)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ["decision", "decision-decoy"])
def test_samples_are_those_of_the_engine_in_the_process(
    serving: Serving, name: str, temperature: float
) -> None:
    """Of the weights that the server was given last, whatever it was started with."""
    heard: dict[int, object] = {}
    asked = (prompts(12), keys(12), Sampling(LENGTH, temperature))
    theirs = start(serving.address, name).sample(*asked, finished=heard.__setitem__)
    here = choice.start(EngineChoice(VLLM), load_policy(name), CONTEXT, ROWS, ALONE)
    ours = here.sample(*asked)
    assert len({one.text for one in theirs}) > 2
    for one, other in zip(theirs, ours, strict=True):
        assert (one.ids, one.text, one.finish_reason) == (other.ids, other.text, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert heard == dict(enumerate(theirs))


def test_two_processes_with_one_server_give_the_record_of_one_without(
    serving: Serving, tmp_path: Path
) -> None:
    """By the command, evaluation included. A server that missed an update of the weights would show in the gap."""
    file = tmp_path / "tiny.toml"
    file.write_text(tiny.toml({**TINY, "engine": VLLM}))
    assert run.train(experiment.load(str(file)), "flow", 0, tmp_path / "one")
    out = ("--method", "flow", "--out", tmp_path / "runs", "--server", serving.address)
    folder = Path(launch("-m", "harness.cli", "train", file, *out).split()[-1])
    two = read_run(folder)
    assert two.finished and not two.faults() and two.manifest.processes == 2
    assert two.manifest.versions["vllm"].startswith(vllm.TESTED)
    assert all(0 < step["sampler_gap"] < 1e-5 for step in two.table("steps").to_pylist())
    policy_folder(folder, 2).parent.mkdir()
    (folder / "policy").rename(policy_folder(folder, 2))
    same_run(tmp_path / "one", folder)


def test_weights_of_another_run_are_not_sampled_for_this_one(serving: Serving) -> None:
    """As of one that does not see the lock: on another machine, or with a TMPDIR of its own."""
    heard: dict[int, object] = {}
    one, other = start(serving.address), start(serving.address, "decision-decoy")
    with pytest.raises(EngineError, match="other weights"):
        one.sample(prompts(4), keys(4), Sampling(LENGTH), finished=heard.__setitem__)
    assert not heard and len(other.sample(prompts(4), keys(4), Sampling(LENGTH))) == 4


def test_a_server_that_was_left_with_half_the_weights_takes_no_others(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """vLLM would put what it has read of them together with the next ones."""
    with monkeypatch.context() as patch:
        patch.setattr(server, "_written", lambda *_: nullcontext(tmp_path / "unseen"))
        with pytest.raises(EngineError, match="it must see .*unseen"):
            start(serving.address)
    with pytest.raises(EngineError, match="by half: start it again"):
        start(serving.address)
    # Of this one it has read nothing.
    httpx.post(f"{serving.address}/update_weight_version", json={"new_version": "default"}, trust_env=False)


def test_mistakes_are_one_line(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*options: str, command: tuple[str, ...] = ("evaluate", "decision", "decision")) -> str:
        assert cli.main([*command, "--problems", "2", *options]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        return line

    address = ("--engine", "vllm", "--server", serving.address)
    assert f"started for {CONTEXT} tokens" in said(*address, "--max-response-tokens", "60")
    assert "serves flowtracer-" in said(*address, "--dtype", "bfloat16")
    assert "serves flowtracer-" in said(*address, command=("evaluate", "arithmetic", "arithmetic"))
    # As another run does, for as long as it samples.
    with server.lock_of(serving.address).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "samples for another run" in said(*address)
    monkeypatch.setattr(vllm, "TESTED", "0.1.")
    assert "was never tested" in said(*address)


# Last in this file: it ends the server.
def test_a_server_that_dies_is_one_line_while_it_samples(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(serving.address)
    threading.Thread(target=lambda: (time.sleep(0.5), serving.kill()), daemon=True).start()
    engine.take(load_policy("decision").model)
    asked = prompts(12) * 40

    def long() -> None:
        for _ in range(100):
            engine.sample(asked, keys(len(asked)), Sampling(LENGTH))

    with pytest.raises(EngineError, match="does not answer .* start it again, then run the same"):
        long()
