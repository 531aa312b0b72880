"""A small experiment on the shipped policy of the decision task, so that runs take a second and not a minute."""

import pytest

from harness import experiment as experiments


@pytest.fixture
def tiny_experiment():
    """Two seeds, two arms, six steps of sixteen rollouts on `decision`; keyword arguments change the training."""

    def build(methods=("uniform", "flow"), seeds=2, **training):
        table = {
            "title": "tiny",
            "seeds": seeds,
            "declaration": {"metric": "training_reward_area", "smallest_difference": 0.01},
            "policy": {"name": "decision"},
            "task": {"name": "decision", "contexts": 4},
            "training": {
                "steps": 6,
                "prompts_per_step": 2,
                "samples_per_prompt": 8,
                "max_response_tokens": 20,
                "learning_rate": 1e-3,
                "save_every": 2,
                **training,
            },
            "evaluation": {"every": 3, "problems": 6, "batch_size": 8},
            "methods": {label: {} for label in methods},
        }
        return experiments.from_table(table, "tiny")

    return build
