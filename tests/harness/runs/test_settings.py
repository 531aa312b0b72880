"""Protects what a run is given: TRL's arguments, its adapters, and the order of its problems."""

import pytest
import torch
from transformers import TrainingArguments

from harness import ExperimentError
from harness.runs.settings import data_order, grpo_config


def test_one_process_trains_on_one_gpu_however_many_it_sees(monkeypatch, tmp_path, tiny_experiment):
    """transformers would copy the policy to each, and draw as many times the rollouts of a step."""

    def sees_eight(self):
        if not hasattr(self, "distributed_state"):
            self._n_gpu, self.distributed_state = 8, None
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(sees_eight))
    settings = tiny_experiment().training
    assert grpo_config(settings, "float32", 0, tmp_path).train_batch_size == settings.rollouts


@pytest.mark.parametrize(
    ("options", "wanted"), [({}, True), ({"top_k": 100}, False), ({"top_p": 0.9}, False)]
)
def test_samples_of_a_truncated_distribution_are_not_weighed_by_what_was_left_out(
    tmp_path, tiny_experiment, options, wanted
):
    """On SmolLM2 with the paper's top-k of 100, responses of 96 tokens got ratios from 0.70 down to 0.004."""
    settings = tiny_experiment(**options).training
    assert grpo_config(settings, "float32", 0, tmp_path).vllm_importance_sampling_correction is wanted


def test_data_order_depends_on_the_seed_alone_and_repeats_no_prompt_in_a_step():
    import tasks

    problems = tasks.get("decision").problems("train")[:10]
    order = data_order(problems, steps=20, prompts=4, seed=3)
    assert order == data_order(problems, steps=20, prompts=4, seed=3)
    assert order[:40] == data_order(problems, steps=10, prompts=4, seed=3)
    assert order != data_order(problems, steps=20, prompts=4, seed=4)
    for step in range(20):
        assert len({problem.id for problem in order[4 * step : 4 * step + 4]}) == 4
    message = r"training\.prompts_per_step is 11, and there are 10 training problems: give at most 10"
    with pytest.raises(ExperimentError, match=message):
        data_order(problems, steps=1, prompts=11, seed=0)
