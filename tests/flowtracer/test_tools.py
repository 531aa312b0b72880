"""Protects credit in TRL's own tool loop: real calls, tools and chat template; only the policy's words are scripted."""

import json

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig
from trl.chat_template_utils import qwen3_chat_template

from flowtracer import CreditGRPOTrainer

END = "<|im_end|>"


def call(**arguments):
    return f"<tool_call>\n{json.dumps({'name': 'add', 'arguments': arguments})}\n</tool_call>"


#: What the policy writes first, and after the tool has answered; the answer that it gave, or None.
WRITES = [
    ("Maybe \\boxed{1}.\n" + call(a="\\boxed{40}", b=2), "So \\boxed{7}.", "7"),
    (call(a="40", b=2), "The tool has said it.", None),
    ("I say \\boxed{5}.\n" + call(a="\\boxed{41}", b=1), "Done.", "5"),
    ("It is \\boxed{42}.", None, "42"),
]


def add(a: str, b: int) -> str:
    """
    Adds two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return f"\\boxed{{{a} and {b}}}"


class Scripted(Qwen3ForCausalLM):
    """A policy that writes its script: the forward, and all that is trained, is Qwen3's."""

    tokenizer = None

    def generate(self, input_ids, attention_mask, **_):
        texts = [
            self.tokenizer.decode(ids[mask.bool()])
            for ids, mask in zip(input_ids, attention_mask, strict=True)
        ]
        if "</tool_response>" in texts[0]:
            # Only those that have called: each is known by its call.
            written = [
                next(then for first, then, _ in WRITES if then is not None and first in text)
                for text in texts
            ]
        else:
            written = [first for first, _, _ in WRITES]
        rows = [torch.tensor(self.tokenizer(text + END).input_ids) for text in written]
        padded = torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=self.tokenizer.pad_token_id
        )
        return torch.cat([input_ids, padded], dim=1)


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes as tokens, and the three special tokens of Qwen3's chat template."""
    special = ["<|endoftext|>", "<|im_start|>", END]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({token: place for place, token in enumerate([*special, *alphabet])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=special[0], eos_token=END, additional_special_tokens=special
    )
    wrapped.chat_template = qwen3_chat_template
    return wrapped


class Watched(CreditGRPOTrainer):
    """Computes each loss again with other credit: ten times as much for the tool's tokens, and for the policy's."""

    def micro_batch_loss(self, model, inputs):
        loss = super().micro_batch_loss(model, inputs)
        self.inputs, self.losses = inputs, [loss.item()]
        tool = (inputs["tool_mask"] == 0) & (inputs["completion_mask"] == 1)
        for changed in (tool, ~tool):
            credit = torch.where(changed, 10 * inputs["advantages"], inputs["advantages"])
            again = super().micro_batch_loss(model, {**inputs, "advantages": credit})
            self.losses.append(again.item())
        return loss


@pytest.fixture(scope="module")
def trainer(tokenizer, tmp_path_factory):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    model = Scripted(config)
    model.tokenizer = tokenizer
    built = Watched(
        model=model,
        processing_class=tokenizer,
        credit="flow",
        tools=[add],
        reward_funcs=lambda completions, **_: [1.0, 0.0, 1.0, 0.0],
        train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": "How much?"}]] * 2}),
        args=GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("tools")), max_steps=1, per_device_train_batch_size=4,
            num_generations=4, max_completion_length=512, use_cpu=True, report_to=[], save_strategy="no",
            disable_tqdm=True, gradient_checkpointing=False, bf16=False, seed=1,
        ),
    )  # fmt: skip
    built.train()
    return built


def pieces(tokenizer, ids, inside):
    """The texts of the tokens inside and outside of a mask."""
    pairs = list(zip(ids, inside.tolist(), strict=False))
    return tuple(tokenizer.decode([token for token, own in pairs if own == side]) for side in (True, False))


def test_the_loss_has_what_the_policy_wrote_and_nothing_of_the_tool(trainer, tokenizer):
    batch = trainer.rollouts
    for ids, inside, (first, then, _) in zip(batch.response_ids, batch.in_loss, WRITES, strict=True):
        ours, theirs = pieces(tokenizer, ids, inside)
        assert ours == first + END + ("" if then is None else then + END)
        assert ("<tool_response>" in theirs and "\\boxed{" in theirs) == (then is not None)


def test_an_answer_is_what_the_policy_wrote_as_content(trainer, tokenizer):
    """Neither in the call, whose arguments hold a box, nor in the tool's answer, which is a box."""
    batch = trainer.rollouts
    for row, (_, _, answer) in enumerate(WRITES):
        tokens = batch.located[row].answer
        written = tokenizer.decode([batch.response_ids[row][token] for token in tokens])
        assert written == (answer or "")
        assert (row in batch.abstentions) == (answer is None)
    assert batch.abstentions[1] == "no answer"


def test_credit_is_for_the_tokens_of_the_policy(trainer):
    batch = trainer.rollouts
    assert (batch.weights[~batch.in_loss] == 1).all()
    judged = [row for row, (_, _, answer) in enumerate(WRITES) if answer is not None]
    for row in judged:
        assert len(set(batch.weights[row][batch.in_loss[row]].tolist())) == 2, "two levels of credit"


def test_credit_on_the_tokens_of_a_tool_does_nothing(trainer):
    loss, on_tool, on_policy = trainer.losses
    assert loss == on_tool and loss != on_policy
