"""Protects credit on two processes: what trackers see is of both, and noise is of a response's place alone."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import json, os, sys
sys.path.insert(0, {root!r})
from tests.flowtracer.test_processes import run
trainer = run(sys.argv[1], {folder!r}, 4, int(os.environ["RANK"]))
batch = trainer.rollouts
last = {{key: value for key, value in trainer.state.log_history[0].items() if key.startswith("credit/")}}
with open({folder!r} + "/rank" + os.environ["RANK"] + ".json", "w") as file:
    json.dump({{"weights": batch.weights_of_tokens(), "logged": last}}, file)
"""


def run(name, folder, rows, rank, **changes):
    """One step on eight given responses in two groups; the letters of the second process are no answers."""
    from tests.flowtracer.conftest import plain_tokenizer
    from tests.flowtracer.test_trainer import Letters, train

    class Half(Letters):
        def extract(self, text):
            return None if "p" in text else super().extract(text)

    def given(prompts, trainer):
        first = rank * len(prompts)
        texts = [
            "abcdefgh"[: 3 + (first + i) % 5] + ("p" if first + i >= 4 else "a") for i in range(len(prompts))
        ]
        tokenizer = trainer.processing_class
        ids = [tokenizer(text).input_ids for text in texts]
        return {
            "prompt_ids": [tokenizer(prompt).input_ids for prompt in prompts],
            "completion_ids": ids,
            "logprobs": [[0.0] * len(part) for part in ids],
        }

    return train(
        plain_tokenizer(), folder, credit=name, task=Half(), steps=1, padded=False, rollout_func=given,
        per_device_train_batch_size=rows, **changes
    )  # fmt: skip


def two(name, folder):
    """What each of two processes has and logs."""
    script = folder / "script.py"
    script.write_text(SCRIPT.format(root=str(Path(__file__).parents[2]), folder=str(folder)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", port, str(script), name]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=600, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flow", "random"])
def test_two_processes_log_and_draw_what_one_does(tmp_path, name):
    """Abstentions of the second process count in what the first logs; other micro-batches draw the same numbers."""
    ranks = two(name, tmp_path)
    alone = run(name, tmp_path, 8, 0)
    split = run(name, tmp_path, 2, 0, gradient_accumulation_steps=4, steps_per_generation=4)
    logged = {key: value for key, value in alone.state.log_history[0].items() if key.startswith("credit/")}
    for rank in ranks:
        assert rank["logged"].keys() == logged.keys()
        for key in logged.keys() - {"credit/seconds"}:
            assert rank["logged"][key] == pytest.approx(logged[key], abs=1e-6), key
    assert logged["credit/answer_found"] == 0.5
    assert logged["credit/abstained"] == (0.5 if name == "flow" else 0.0)
    together = [row for rank in ranks for row in rank["weights"]]
    for ours, theirs in zip(alone.rollouts.weights_of_tokens(), together, strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=0, atol=1e-6)
    if name == "random":
        assert split.rollouts.weights_of_tokens() == alone.rollouts.weights_of_tokens() == together
