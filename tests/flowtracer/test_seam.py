"""Protects the seam: what TRL, transformers, torch and vLLM are relied on for is there, and who moved it is said.

Behind each name stand the tests of the trainer and the tap; these say in a sentence which one a new version moved.
"""

import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

import flowtracer
from flowtracer import CreditGRPOTrainer, reliances, seam
from flowtracer.layout import Turn
from flowtracer.reliances import RELIANCES, Reliance, moved
from flowtracer.seam import TrainerSeam, written
from tests.flowtracer.conftest import tiny_model


@pytest.mark.parametrize("reliance", RELIANCES, ids=lambda one: one.path)
def test_what_is_relied_on_is_there(reliance):
    assert moved([reliance]) == []


@pytest.mark.parametrize(
    ("reliance", "sentence"),
    [
        (
            Reliance("trl", "trl:GRPOTrainer._gone", "here", ()),
            r"trl [\d.]+: trl.GRPOTrainer._gone is gone; see what took",
        ),
        (
            Reliance("trl", "trl:GRPOTrainer._generate", "here", ("texts",)),
            r"takes \(prompts\), not \(texts, ...\)",
        ),
        (
            Reliance("trl", "trl:GRPOTrainer._nothing", "here", assigned=True),
            "_nothing is not assigned any more",
        ),
        (Reliance("trl", "trl.moved:name", "here"), r"cannot be reached \(No module named 'trl.moved'\)"),
    ],
)
def test_a_name_that_moved_is_said_in_a_sentence(reliance, sentence):
    (said,) = moved([reliance])
    assert re.search(sentence, said) and "mend here, and then the entry in flowtracer/reliances.py" in said


def test_packages_that_are_not_here_are_passed_over():
    assert moved([Reliance("no_such_package", "no_such_package:name", "here")]) == []


def test_no_other_file_knows_a_private_name_of_trl_s():
    """One that is not listed here would move unseen."""
    private = [one.path.rpartition(".")[2] for one in RELIANCES if one.package == "trl"]
    private = [name for name in private if name.startswith("_") and not name.startswith(("_log", "_save"))]
    root = Path(flowtracer.__file__).parent
    for file in root.rglob("*.py"):
        if file.name not in ("seam.py", "reliances.py"):
            code = file.read_text(encoding="utf-8")
            assert [name for name in private if re.search(rf"\.{name}\b", code)] == [], file
    overridden = [name for name in vars(TrainerSeam) if name.startswith("_") and not name.startswith("__")]
    listed = {one.path.rpartition(".")[2] for one in RELIANCES}
    assert set(overridden) - listed == {"_pass"}


def test_public_names_of_the_seam_are_none_of_trl_s():
    """A hook under a name that TRL uses would be called by TRL."""
    ours = {name for name in vars(TrainerSeam) if not name.startswith("_")}
    ours |= {name for name in vars(CreditGRPOTrainer) if not name.startswith("_")} - {
        "log",
        "create_model_card",
    }
    assert not [name for name in ours if hasattr(GRPOTrainer, name)]


def test_the_seam_by_itself_is_stock_trl(tokenizer, tmp_path):
    """Its hooks pass everything on: training with nothing but the seam ends where stock TRL ends."""

    class Plain(TrainerSeam, GRPOTrainer):
        pass

    ends = []
    for cls in (GRPOTrainer, Plain):
        model = tiny_model("qwen3", seed=3)
        trainer = cls(
            model=model,
            reward_funcs=lambda completions, **_: [float(len(set(text))) for text in completions],
            args=GRPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_steps=2,
                            max_completion_length=6, num_iterations=2, beta=0.0, seed=5, use_cpu=True, report_to=[],
                            learning_rate=1e-2, save_strategy="no", bf16=False, disable_tqdm=True),
            train_dataset=Dataset.from_dict({"prompt": ["abc?", "a?"]}),
            processing_class=tokenizer,
        )  # fmt: skip
        trainer.train()
        ends.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def message(content, **fields):
    return {"role": "assistant", "content": content, **fields}


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 42, "b": "x", "c": 'say "hi"'}}}


@pytest.mark.parametrize(
    ("completion", "mask", "text", "turns"),
    [
        ("plain", None, "plain", [Turn(0, 9, "plain")]),
        ("", None, "", [Turn(0, 9, "")]),
        ("plain", [1, 1, 0, 0, 1, 1, 1, 0, 0], "plain", [Turn(0, 2), Turn(4, 7)]),
        ([message("said")], None, "said", [Turn(0, 9, "said")]),
        # A rollout function with a mask: its one message holds what the environment said too.
        ([message("all of it")], [1, 1, 0, 0, 1, 1, 1, 0, 0], "all of it", [Turn(0, 2), Turn(4, 7)]),
        ([message("all of it")], [1, 1, 1, 0, 0, 0, 0, 0, 0], "all of it", [Turn(0, 3)]),
        ([message("said")], [1] * 9, "said", [Turn(0, 9, "said")]),
        ([message(None)], None, "", [Turn(0, 9, "")]),
        ([message([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}])], None, "in parts",
         [Turn(0, 9, "in parts")]),
        ([message("so 42", tool_calls=[CALL])], None, "so 42", [Turn(0, 9, "so 42", (("add", "42", "x"),))]),
        (
            [message("first", tool_calls=[CALL]), {"role": "tool", "name": "add", "content": "43"}, message("then 43")],
            [1, 1, 1, 0, 0, 1, 1, 1, 1], "then 43",
            [Turn(0, 3, "first", (("add", "42", "x"),)), Turn(5, 9, "then 43")],
        ),
        (
            [message("first", tool_calls=[CALL]), {"role": "tool", "name": "add", "content": "43"}],
            [1, 1, 1, 0, 0, 0, 0, 0, 0], "first", [Turn(0, 3, "first", (("add", "42", "x"),))],
        ),
        (
            [message("first", tool_calls=[CALL]), {"role": "tool", "name": "add", "content": "43"}, message("")],
            [1, 1, 1, 0, 0, 1, 1, 1, 1], "first",
            [Turn(0, 3, "first", (("add", "42", "x"),)), Turn(5, 9, "")],
        ),
    ],
)  # fmt: skip
def test_what_the_policy_wrote_of_a_completion(completion, mask, text, turns):
    assert written(completion, mask, 9) == (text, turns)


def test_learned_prompts_are_known_by_their_kind():
    peft = pytest.importorskip("peft")
    prompts = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert seam.learns_prompts(peft.get_peft_model(tiny_model("qwen3"), prompts)) is not None
    lora = peft.LoraConfig(target_modules=["q_proj"], r=2)
    assert seam.learns_prompts(peft.get_peft_model(tiny_model("qwen3"), lora)) is None
    assert seam.learns_prompts(tiny_model("qwen3")) is None


def test_every_reliance_names_a_file_that_is_there():
    root = Path(flowtracer.__file__).parents[1]
    missing = {one.user for one in RELIANCES if not (root / one.user.partition(",")[0]).exists()}
    assert not missing
    assert reliances.RELIANCES is RELIANCES
