"""Protects values by vLLM: continuations whose beginnings are computed once are those of the policy, and find the token
that settles the verdict. Runs where vLLM is (`nox -s tests_vllm`).
"""

import importlib.util

import numpy as np
import pytest
import torch

from harness import experiment as experiments
from harness import seeds
from harness.engines import choice
from harness.engines.base import ALONE, VLLM, EngineChoice, Sampling
from harness.experiment import task_of
from harness.runs import run
from harness.studies import values
from tests.harness import tiny

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")

CONTEXT = 64


def test_values_find_the_deciding_token() -> None:
    built = experiments.from_table(tiny.table(), "tiny")
    policy, task = run.policy_of(built), task_of(built.task)
    engine = choice.start(EngineChoice(VLLM), policy, CONTEXT, 64, ALONE, alike=True)

    # Sharing a beginning is bookkeeping and no change of the distribution: log-probabilities are the policy's own,
    # also where a prompt was asked before and begins with whole blocks that are there already.
    prompt = policy.encode(task.prompt(task.problems("train", 1)[0]))
    (first,) = engine.sample([prompt], [seeds.key("first")], Sampling(40))
    longer = [[*prompt, *first.ids * 8][:48]] * 4
    keys = [seeds.key("longer", number) for number in range(4)]
    for sample in engine.sample(longer, keys, Sampling(8)) + engine.sample(longer, keys, Sampling(8)):
        with torch.no_grad():
            logits = policy.model(torch.tensor([longer[0] + sample.ids])).logits[0, len(longer[0]) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(sample.ids)[:, None])[:, 0].tolist()
        assert sample.logprobs == pytest.approx(expected, abs=1e-3)

    asked = values.Asked(task, task.problems("train", 6), 8, built.training.sampling, continuations=16)
    journal = values.journal_in()
    rows = values.rollouts(policy, engine, asked, journal)
    chosen = [row for row in values.with_signal(rows) if row["verdict"] in ("correct", "wrong")][:6]
    changes, _ = values.measure(policy, engine, CONTEXT, asked, chosen, journal)
    for row, one in zip(chosen, changes, strict=True):
        ((at, _),) = task.decisive(row["text"])
        assert one is not None and at in one.places
        index = one.places.index(at)
        assert one.values[index + 1 :] == pytest.approx(row["reward"], abs=0.2)
        if row["reward"]:
            assert np.abs(one.change).argmax() == index
