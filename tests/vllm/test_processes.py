"""Protects one run on several processes that each sample with a vLLM of their own: its record is that of one process,
whether the policy is copied or split. Runs where vLLM is (`nox -s tests_vllm`).
"""

import importlib.util
import sys
from pathlib import Path

import pytest
from torch import distributed

from harness import experiment
from harness.engines import vllm
from harness.engines.base import VLLM
from harness.runs import run
from leaderboards import read_run
from tests.harness import tiny
from tests.harness.test_parallel import TINY, begin_fsdp, launch, same_run, train_split

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experiment") / "tiny.toml"
    path.write_text(tiny.toml({**TINY, "engine": VLLM}))
    return path


@pytest.fixture(scope="module")
def one(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run in one process."""
    folder = tmp_path_factory.mktemp("one")
    assert run.train(experiment.load(str(file)), "flow", 0, folder)
    return folder


def every_step_was_sampled_from_its_policy(folder: Path) -> None:
    """An engine that missed an update of any process's weights would show here."""
    for step in read_run(folder).table("steps").to_pylist():
        assert 0 < step["sampler_gap"] < 1e-5


def test_each_process_samples_its_part(file: Path, one: Path, tmp_path: Path) -> None:
    """Copied to both, by the command, evaluation included."""
    printed = launch("-m", "harness.cli", "train", file, "--method", "flow", "--out", tmp_path)
    folder = Path(printed.split()[-1])
    two = read_run(folder)
    assert two.finished and not two.faults() and two.manifest.processes == 2
    every_step_was_sampled_from_its_policy(folder)
    run.policy_folder(folder, 2).parent.mkdir()
    (folder / "policy").rename(run.policy_folder(folder, 2))
    same_run(one, folder)


def test_a_split_policy_is_put_together_for_each_engine(file: Path, one: Path, tmp_path: Path) -> None:
    """By FSDP2, stopped and resumed: see the end of this file, which the processes run."""
    launch("-m", __name__, file, tmp_path)
    every_step_was_sampled_from_its_policy(tmp_path)
    same_run(one, tmp_path)


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    begin_fsdp()
    train_split(Path(sys.argv[1]), Path(sys.argv[2]), "fsdp2")
    vllm.close()
