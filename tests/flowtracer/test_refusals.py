"""Protects what the trainer refuses when it is built: each names the setting and the way out."""

import pytest

from flowtracer import CreditError, credit, refusals
from tests.flowtracer.test_trainer import Letters, train


def test_what_no_process_sees_whole_is_refused(tokenizer, tmp_path, monkeypatch):
    uneven = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "steps_per_generation": 2}
    trainer = train(tokenizer, tmp_path, credit="tempo", task=Letters(), steps=1, **uneven)
    monkeypatch.setattr(trainer.args, "steps_per_generation", 1)
    with pytest.raises(CreditError, match="'tempo' judges whole groups of 4, but a process generates 2"):
        refusals.check(trainer)
    trainer.credit = credit.get("entropy_mask")
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", 2)
    with pytest.raises(CreditError, match="'entropy_mask' judges a whole generation batch"):
        refusals.check(trainer)
    trainer.credit = credit.get("gradient")
    trainer.is_fsdp_enabled = True
    with pytest.raises(CreditError, match="'gradient' needs gradients that FSDP"):
        refusals.check(trainer)


def test_sequence_level_ratios_are_refused(tokenizer, tmp_path):
    with pytest.raises(CreditError, match="importance_sampling_level='sequence'"):
        train(tokenizer, tmp_path, credit="flow", importance_sampling_level="sequence")
    train(tokenizer, tmp_path, credit="uniform", importance_sampling_level="sequence", steps=1)


def test_compiled_forwards_are_refused(tokenizer, tmp_path):
    with pytest.raises(CreditError, match="set torch_compile=False"):
        train(tokenizer, tmp_path, credit="flow", torch_compile=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"credit": None}, "credit=None is no credit method: give a name"),
        ({"credit": type(credit.get("flow"))}, "credit=FlowCredit: this is a class; give credit.get.'flow'"),
        ({"task": Letters}, "task=Letters: this is a class; give an instance"),
        ({"task": "no_such_task"}, "task='no_such_task' is not known; known: "),
        ({"task": 5}, "task=5 finds no answer"),
        ({"credit": "oracle"}, "needs a task that knows its decisive tokens, and this one does not"),
        ({"credit": "oracle", "task": "gsm8k"}, "needs a task that knows its decisive tokens"),
        (
            {"credit": credit.get("flow", source="question"), "columns": ["prompt"]},
            "needs a data set column `question`",
        ),
        (
            {"credit": credit.get("flow", source="question"), "remove_unused_columns": True},
            "column `question`, which remove_unused_columns=True takes away",
        ),
        (
            {"credit": "opsd", "task": Letters(), "remove_unused_columns": True},
            "column `gold`, which remove_unused_columns=True takes away",
        ),
        (
            {"credit": "tempo", "multi_objective_aggregation": "normalize_then_sum"},
            "'normalize_then_sum' leaves none",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(tokenizer, tmp_path, changes, message):
    with pytest.raises(CreditError, match=message) as caught:
        train(tokenizer, tmp_path, **{"credit": "flow", **changes}, steps=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_learned_prompts_are_refused_where_tokens_are_read(tokenizer, tmp_path, kind):
    peft = pytest.importorskip("peft")
    config = {"prompt": peft.PromptTuningConfig, "prefix": peft.PrefixTuningConfig}[kind]
    adapter = config(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(CreditError, match="puts learned vectors before them; use LoRA"):
        train(tokenizer, tmp_path, credit="flow", task=Letters(), peft_config=adapter)


def test_a_split_policy_is_not_perturbed(tokenizer, tmp_path):
    trainer = train(tokenizer, tmp_path, credit="oar_perturb", task=Letters(), steps=1)
    trainer.is_fsdp_enabled = True
    with pytest.raises(CreditError, match="'oar_perturb' runs as many forwards as a response has tokens"):
        refusals.check(trainer)


def test_turn_every_is_checked(tokenizer, tmp_path):
    for wrong in (-1, 1.5):
        with pytest.raises(CreditError, match="give a number of optimizer steps"):
            train(tokenizer, tmp_path, credit="flow", task=Letters(), steps=1, turn_every=wrong)


def test_an_adaptive_entropy_bonus_is_refused(tokenizer, tmp_path):
    """Its coefficient moves at every loss that is computed, and the turn takes one more."""
    with pytest.raises(CreditError, match="would move the adaptive entropy coefficient; set it to 0"):
        train(
            tokenizer,
            tmp_path,
            credit="flow",
            task=Letters(),
            steps=1,
            turn_every=1,
            use_adaptive_entropy=True,
        )
