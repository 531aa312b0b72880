"""A user's TRL script on the shipped policy of the decision task."""

from datasets import Dataset
from trl import GRPOConfig

import tasks
from flowtracer import CreditGRPOTrainer
from harness.policy import load_policy
from tasks.decision import LABELS
from tests.harness.letters import as_drawn, right

TASK = tasks.get("decision", contexts=4)
#: Four whose right letter is likely where it is to stand: some responses of a group are right, and some are wrong.
LIKELY = [
    problem
    for problem in TASK.problems("train")
    if as_drawn(LABELS[int(problem.question[3])])[right(problem.question)] > 0.3
]
PROBLEMS = {problem.id: problem for problem in LIKELY[:4]}


def reward(completions, id, **_):
    return [TASK.reward(PROBLEMS[key], text) for key, text in zip(id, completions, strict=True)]


def trainer(folder, record, credit="flow", task=TASK, data=None, turn_every=0, **changes):
    """A user's script: nothing in it is the harness's but the policy."""
    policy = load_policy("decision")
    rows = [{"prompt": TASK.prompt(problem), "id": problem.id} for problem in PROBLEMS.values()]
    arguments = {
        "output_dir": str(folder / "out"),
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 32,
        "learning_rate": 1e-3,
        "seed": 0,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        **changes,
    }
    return CreditGRPOTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=reward,
        train_dataset=data or Dataset.from_list(rows),
        args=GRPOConfig(**arguments),
        credit=credit,
        task=task,
        record=record,
        turn_every=turn_every,
    )
