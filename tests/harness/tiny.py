"""A small experiment on the shipped policy of the decision task, so that runs take a second and not a minute."""

import json


def table(methods=("uniform", "flow"), seeds=2, evaluation=(), **training):
    """The experiment as its TOML table: two arms, two seeds, six steps of sixteen rollouts on `decision`.

    methods: names, or name -> options. evaluation: changes of the evaluation; keyword arguments change the training.
    """
    return {
        "title": "tiny",
        "seeds": seeds,
        "declaration": {"metric": "training_reward_area", "smallest_difference": 0.01},
        "policy": {"name": "decision"},
        "task": {"name": "decision", "contexts": 4},
        "training": {
            "steps": 6,
            "prompts_per_step": 2,
            "samples_per_prompt": 8,
            "max_response_tokens": 32,
            "learning_rate": 1e-3,
            "save_every": 2,
            **training,
        },
        "evaluation": {"every": 3, "problems": 6, "batch_size": 8, **dict(evaluation)},
        "methods": methods if isinstance(methods, dict) else {label: {} for label in methods},
    }


def toml(table, *place):
    """A table as the text of a file."""
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    lines = [f"[{'.'.join(place)}]"] if place else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in table.items() if key not in inner]
    return "\n".join([*lines, *(toml(value, *place, key) for key, value in inner.items())])
