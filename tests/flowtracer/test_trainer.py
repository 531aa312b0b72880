"""Protects the seam into TRL: which forward is traced, what the loss sees, and that gamma = 1 is stock GRPO."""

import random
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy
import pandas
import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from flowtracer import CreditError, CreditGRPOTrainer, contexts, credit
from flowtracer.forwards import FROM_FORWARD, ReadAt
from flowtracer.tracking import Described
from tests.flowtracer.conftest import tiny_model
from tests.flowtracer.credit.cases import SAMPLING

PROMPTS = ["abc?", "a?", "dcbaabcd?", "bb?"]


class Letters:
    """A task whose answer is the last letter of a response, and whose first letter decides."""

    def extract(self, text):
        return (len(text) - 1, len(text)) if text else None

    def decisive(self, text):
        return [(0, 1)] if text else []

    def taught(self, question, gold):
        return question + gold


class Never(Letters):
    def extract(self, text):
        return None


def count_letters(completions, **_):
    return [float(sum(letter in "aceg0" for letter in text)) for text in completions]


def right(completions, **_):
    return [float(text[:1] < "h") for text in completions]


def train(
    tokenizer,
    folder,
    *,
    cls=CreditGRPOTrainer,
    padded=True,
    steps=3,
    reward=count_letters,
    columns=None,
    data=None,
    dropout=0.0,
    **changes,
):
    """Trains a tiny policy for a few steps and returns its trainer."""
    keywords = {
        key: changes.pop(key)
        for key in (
            "credit",
            "task",
            "peft_config",
            "rollout_func",
            "turn_every",
            "advantage_clip",
            "eval_dataset",
        )
        if key in changes
    }
    model = tiny_model("qwen3", seed=3, attention_dropout=dropout)
    model.config.eos_token_id = model.generation_config.eos_token_id = 1
    prompts = PROMPTS if padded else ["abc?"] * 4
    arguments = {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 10,
        "learning_rate": 1e-2,
        "max_steps": steps,
        "loss_type": "dapo",
        "beta": 0.0,
        "scale_rewards": "group",
        "seed": 5,
        "use_cpu": True,
        "report_to": [],
        "logging_steps": 1,
        "disable_tqdm": True,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "bf16": False,
        **changes,
    }
    if data is None:
        questions = [text[:1] for text in prompts]
        data = Dataset.from_dict({"prompt": prompts, "question": questions, "gold": ["7", "8", "9", "7"]})
    trainer = cls(
        model=model,
        reward_funcs=reward,
        args=GRPOConfig(output_dir=str(folder), **arguments),
        train_dataset=data if columns is None else data.select_columns(columns),
        processing_class=tokenizer,
        **keywords,
    )
    trainer.train()
    return trainer


def parameters(trainer):
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(parameters(one), parameters(other), strict=True))


# In the training forward; in the old log-probability pass, from two micro-batches a generation used by two updates.
SEAMS = {
    "training forward": {},
    "accumulated": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 2,
    },
    "old log-probabilities": {"num_iterations": 2},
    "old, in chunks": {"per_device_train_batch_size": 4, "steps_per_generation": 2},
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("seam", list(SEAMS))
def test_gamma_one_is_stock_grpo_bit_for_bit(tokenizer, tmp_path, seam, padded):
    stock = train(tokenizer, tmp_path, cls=GRPOTrainer, padded=padded, **SEAMS[seam])
    method = credit.get("flow", gamma=1.0, layers="all")
    ours = train(tokenizer, tmp_path, padded=padded, credit=method, task=Letters(), **SEAMS[seam])
    assert ours.credit_seconds > 0, "the tap must have been open"
    assert same(stock, ours)


@pytest.mark.parametrize("name", ["flow", "gradient"])
@pytest.mark.parametrize("seam", ["training forward", "old, in chunks"])
def test_low_rank_adapters_train_alike(tokenizer, tmp_path, seam, name):
    """A policy under PEFT: gamma = 1 is stock GRPO bit for bit, and gamma = 1.5 is not."""
    peft = pytest.importorskip("peft")
    changes = {"peft_config": peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=4), **SEAMS[seam]}
    stock = train(tokenizer, tmp_path, cls=GRPOTrainer, **changes)
    ours = train(tokenizer, tmp_path, credit=credit.get(name, gamma=1.0), task=Letters(), **changes)
    assert same(stock, ours)
    assert not same(stock, train(tokenizer, tmp_path, credit=name, task=Letters(), **changes))


@pytest.mark.parametrize("seam", list(SEAMS))
def test_credit_changes_training_and_uniform_does_not(tokenizer, tmp_path, seam):
    """Against tests that cannot fail: the same run with gamma = 1.5 ends elsewhere."""
    stock = train(tokenizer, tmp_path, cls=GRPOTrainer, **SEAMS[seam])
    assert not same(stock, train(tokenizer, tmp_path, credit="flow", task=Letters(), **SEAMS[seam]))
    assert same(stock, train(tokenizer, tmp_path, credit="uniform", **SEAMS[seam]))


def test_an_extra_forward_draws_nothing(tokenizer, tmp_path):
    """A policy with dropout, or an adapter: a forward of our own must leave the generator to the next rollouts."""
    stock = train(tokenizer, tmp_path, cls=GRPOTrainer, dropout=0.3, **SEAMS["accumulated"])
    method = credit.get("flow", gamma=1.0)
    changes = {"credit": method, "task": Letters(), "advantage_clip": 1e9, **SEAMS["accumulated"]}
    ours = train(tokenizer, tmp_path, dropout=0.3, **changes)
    assert ours.read_at() is ReadAt.EXTRA_FORWARD
    assert same(stock, ours)


def test_no_extra_forward_in_the_training_forward(tokenizer, tmp_path):
    """One generation batch feeds one update: as many forwards with flow as with uniform credit."""

    def forwards(**keywords):
        counted = []

        class Counting(CreditGRPOTrainer):
            def _get_per_token_logps_and_entropies(self, *args, **kwargs):
                counted.append(1)
                return super()._get_per_token_logps_and_entropies(*args, **kwargs)

        train(tokenizer, tmp_path, cls=Counting, **keywords)
        return len(counted)

    assert forwards(credit="flow", task=Letters()) == forwards(credit="uniform") == 3


FROM_A_FORWARD = sorted(
    name for name in credit.names() if credit.get(name).needs & FROM_FORWARD and name not in SAMPLING
)


@pytest.mark.parametrize("name", FROM_A_FORWARD)
def test_both_seams_give_the_same_weights(tokenizer, tmp_path, name):
    """The first generation batch is written by the same policy: read in either forward, the weights agree."""
    options = {"near": 2, "far": 5} if name in ("global_anchor", "coupled", "local_chunk") else {}
    if name == "low_probability":
        options = {"threshold": 0.03}  # about the mean of the 32 letters: on both sides there are some
    method = credit.get(name, **options)
    reward = right if name == "oppo" else count_letters  # a chance of success needs rewards of 0 and 1
    batches = [
        train(
            tokenizer, tmp_path, credit=method, task=Letters(), steps=1, reward=reward, **SEAMS[seam]
        ).rollouts
        for seam in ("training forward", "old, in chunks")
    ]
    assert batches[0].response_ids == batches[1].response_ids
    first, second = batches[0].weights, batches[1].weights
    if name in (
        "answer_attention",
        "attention_entropy",
        "delight",
        "entropy_advantage",
        "gtpo",
        "oppo",
        "opsd",
        "otb",
        "probability",
        "rlsd",
    ):
        assert torch.allclose(first, second, atol=1e-5), (
            "continuous weights, from forwards of other batch shapes"
        )
    else:
        assert torch.equal(first, second)
    assert len(first.unique()) > 1


def test_the_whole_batch_is_judged_before_it_is_split(tokenizer, tmp_path):
    """entropy_mask over two micro-batches of one update: the same weights as over the batch in one piece."""
    whole, split = (
        train(tokenizer, tmp_path, credit="entropy_mask", task=Letters(), steps=1, **SEAMS[seam])
        for seam in ("training forward", "accumulated")
    )
    assert whole.rollouts.response_ids == split.rollouts.response_ids
    assert torch.equal(whole.rollouts.weights, split.rollouts.weights)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_leaves_no_trace_but_its_weights(tokenizer, tmp_path, checkpointing):
    """Its own forward and backward touch neither parameter gradients nor any generator."""
    changes = {**SEAMS["accumulated"], "gradient_checkpointing": checkpointing}
    stock = train(tokenizer, tmp_path, cls=GRPOTrainer, **changes)
    ours = train(tokenizer, tmp_path, credit=credit.get("gradient", gamma=1.0), task=Letters(), **changes)
    assert same(stock, ours)


def test_saliency_is_the_gradient_of_the_answer(tokenizer, tmp_path):
    """Against a backward written out: embeddings as inputs, a softmax, the answer's log-probability."""
    seen = []

    class Watched(CreditGRPOTrainer):
        def saliency(self, output):
            seen.append((super().saliency(output), output))
            return seen[-1][0]

    train(tokenizer, tmp_path, cls=Watched, credit="gradient", task=Letters(), steps=1)
    saliency, output = seen[0]
    model = tiny_model("qwen3", seed=3)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    logprobs = model(inputs_embeds=embedded, attention_mask=mask).logits.log_softmax(-1)
    width = output["prompt_ids"].shape[1]
    total = 0.0
    for row in range(len(ids)):
        own = [t for t in range(width, ids.shape[1]) if mask[row, t] and ids[row, t] > 1]
        if own:
            total = total + logprobs[row, own[-1] - 1, ids[row, own[-1]]]
    (gradient,) = torch.autograd.grad(total, embedded)
    expected = (gradient * embedded).sum(-1).abs()
    assert torch.allclose(saliency, expected, atol=1e-5) and expected.max() > 1e-3


@pytest.mark.parametrize("checkpointing", [False, True])
def test_long_sequences_train_without_a_map(tokenizer, tmp_path, checkpointing):
    """Below its threshold the flow is solved over tiles: the same credit, from padded batches of a training forward."""
    arguments = {"task": Letters(), "steps": 1, "gradient_checkpointing": checkpointing}
    held = train(tokenizer, tmp_path, credit="flow", **arguments)
    never = train(tokenizer, tmp_path, credit=credit.get("flow", dense_tokens=0), **arguments)
    assert len(held.rollouts.weights.unique()) > 1
    assert torch.equal(held.rollouts.weights, never.rollouts.weights)


def test_delimiters_read_the_text_of_tokens(tokenizer, tmp_path):
    batch = train(tokenizer, tmp_path, credit="delimiters", task=Letters(), steps=1).rollouts
    for ids, weights in zip(batch.response_ids, batch.weights, strict=True):
        marks = [tokenizer.decode([token], skip_special_tokens=True) in tuple("#?=;+") for token in ids]
        assert (weights[: len(ids)] == 1.5).tolist() == marks
    assert 1.5 in batch.weights


def test_weights_follow_the_definition(tokenizer, tmp_path):
    """Every response: two fifths of its tokens at 1.5, none outside, advantages untouched in the record."""
    batch = train(tokenizer, tmp_path, credit="flow", task=Letters(), steps=1).rollouts
    for ids, weights in zip(batch.response_ids, batch.weights, strict=True):
        raised = (weights == 1.5).nonzero().flatten().tolist()
        assert len(raised) == 2 * len(ids) // 5
        assert all(position < len(ids) for position in raised)
    assert batch.advantages.shape == (8,)
    assert not batch.trainer_logprobs[0, : len(batch.response_ids[0])].isnan().any()


@pytest.mark.filterwarnings("ignore:credit 'flow' judged none")
def test_responses_without_an_answer_are_abstained_on_and_counted(tokenizer, tmp_path):
    trainer = train(tokenizer, tmp_path, credit="flow", task=Never(), steps=1)
    assert trainer.rollouts.abstentions == dict.fromkeys(range(8), "no answer")
    assert trainer.state.log_history[0]["credit/abstained"] == 1.0
    for ids, weights in zip(trainer.rollouts.response_ids, trainer.rollouts.weights, strict=True):
        assert weights[: len(ids)].tolist() == pytest.approx([1.2] * len(ids))


def test_oracle_sees_the_decisive_tokens(tokenizer, tmp_path):
    batch = train(tokenizer, tmp_path, credit="oracle_mask", task=Letters(), steps=1).rollouts
    for ids, text, weights in zip(batch.response_ids, batch.texts, batch.weights, strict=True):
        if text:
            first = 0 if ids[0] > 1 else next(i for i, token in enumerate(ids) if token > 1)
            assert weights[: len(ids)].nonzero().flatten().tolist() == [first]


def test_question_as_the_source(tokenizer, tmp_path):
    method = credit.get("flow", source="question", layers="all")
    trainer = train(tokenizer, tmp_path, credit=method, task=Letters(), steps=1)
    texts = [row["question"] for row in trainer.rollouts.rows]
    assert all(len(tokens) == len(text) for tokens, text in zip(trainer.rollouts.source, texts, strict=True))


@pytest.mark.parametrize("name", credit.names())
def test_a_credit_method_never_moves_a_global_generator(tokenizer, tmp_path, name):
    """One stray torch.rand changes every later rollout: states before and after weighing must agree."""
    checked = []

    class Watched(CreditGRPOTrainer):
        def continued(self, prefixes, count):
            return [[1.0] * count for _ in prefixes]

        def _apply(self, *args, **kwargs):
            before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
            super()._apply(*args, **kwargs)
            after = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
            assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
            checked.append(name)

    trainer = train(tokenizer, tmp_path, cls=Watched, credit=name, task=Letters(), steps=1)
    assert len(checked) == (name != "uniform")  # which is never asked: it costs what stock TRL costs
    assert trainer.rollouts.weights.isfinite().all()


def test_random_credit_is_a_function_of_seed_and_step(tokenizer, tmp_path):
    one, again = (train(tokenizer, tmp_path, credit="random") for _ in range(2))
    assert torch.equal(one.rollouts.weights, again.rollouts.weights) and same(one, again)


def test_each_generation_batch_of_an_update_draws_its_own(tokenizer, tmp_path):
    """An update over two generation batches of one prompt each: the same place in both, and other numbers."""
    batches = []

    class Watched(CreditGRPOTrainer):
        def roll_out(self, rows):
            output = super().roll_out(rows)
            batches.append(self.rollouts.streams)
            return output

    changes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "steps_per_generation": 1}
    train(tokenizer, tmp_path, cls=Watched, credit="random", steps=2, **changes)
    assert len(batches) == 4 and len({stream for batch in batches for stream in batch}) == 16
    assert batches[0] == [contexts.stream(5, 0, 0, sample) for sample in range(4)]


def test_unscorable_rewards_have_no_advantage(tokenizer, tmp_path):
    def rewards(completions, **_):
        return [None if index == 1 else value for index, value in enumerate(count_letters(completions))]

    batch = train(tokenizer, tmp_path, reward=rewards, credit="flow", task=Letters(), steps=1).rollouts
    assert batch.rewards[1] is None and batch.advantages[1] == 0


def test_an_unknown_credit_method_is_named(tokenizer, tmp_path):
    with pytest.raises(CreditError, match="unknown credit method 'floww'; did you mean 'flow'"):
        train(tokenizer, tmp_path, credit="floww")


def test_an_answer_in_a_part_of_the_response_is_found_in_the_whole(tokenizer, tmp_path):
    """Chat parsers hand the reward a part of what was sampled; of a text that was changed nothing is known."""

    class Parsed(CreditGRPOTrainer):
        cut = staticmethod(lambda text: text[1:])

        def generated(self, generated):
            texts = [self.cut(text) for text in generated.texts]
            turns = [
                [replace(turn, text=text) for turn in parts]
                for parts, text in zip(generated.turns, texts, strict=True)
            ]
            super().generated(replace(generated, texts=texts, turns=turns))

    batch = train(tokenizer, tmp_path, cls=Parsed, credit="flow", task=Letters(), steps=1).rollouts
    for located, ids, text in zip(batch.located, batch.response_ids, batch.texts, strict=True):
        if text:
            assert [tokenizer.decode(ids[token]) for token in located.answer] == [text[-1]]

    class Changed(Parsed):
        cut = staticmethod(lambda text: text + "!")

    with pytest.warns(UserWarning, match="judged none of 8 responses .text changed after sampling."):
        batch = train(tokenizer, tmp_path, cls=Changed, credit="flow", task=Letters(), steps=1).rollouts
    assert batch.abstentions == dict.fromkeys(range(8), "text changed after sampling")


def test_a_method_that_judges_nothing_is_not_silent(tokenizer, tmp_path):
    """flow without a matching task is GRPO times 1.2: said after the first generation batch, and ended after ten."""
    with pytest.warns(UserWarning, match="judged none") as said:
        train(tokenizer, tmp_path, credit="flow", steps=3)
    (message,) = [str(warning.message) for warning in said if "credit" in str(warning.message)]
    assert "credit 'flow' judged none of 8 responses (no answer): every weight is 1.2, GRPO times" in message
    assert "looked for as the last \\boxed{}; a response ends '" in message and "Give task=..." in message
    with (
        pytest.warns(UserWarning, match="judged none"),
        pytest.raises(
            CreditError, match="10 generation batches in a row: credit 'flow' judged none of 8 responses"
        ),
    ):
        train(tokenizer, tmp_path, credit="flow", task=Never(), steps=11)


class Sometimes(Letters):
    """Finds no answer in the first generation batch of each two."""

    asked = 0

    def extract(self, text):
        self.asked += 1
        return super().extract(text) if (self.asked - 1) // 16 % 2 else None


@pytest.mark.filterwarnings("ignore:credit 'flow' judged none")
def test_batches_of_abstentions_that_are_not_in_a_row_end_nothing(tokenizer, tmp_path):
    trainer = train(tokenizer, tmp_path, credit="flow", task=Sometimes(), steps=22)
    assert trainer.state.global_step == 22


def logged(trainer, name):
    return [entry[f"credit/{name}"] for entry in trainer.state.log_history if f"credit/{name}" in entry]


@pytest.mark.parametrize("seam", list(SEAMS))
def test_trackers_see_what_credit_did(tokenizer, tmp_path, seam):
    trainer = train(tokenizer, tmp_path, credit="flow", task=Letters(), steps=1, **SEAMS[seam])
    batch = trainer.rollouts
    inside = torch.cat([row[: len(ids)] for row, ids in zip(batch.weights, batch.response_ids, strict=True)])
    assert logged(trainer, "mean_weight") == pytest.approx([float(inside.mean())])
    assert logged(trainer, "up_weighted") == pytest.approx([float((inside > 1).float().mean())])
    assert logged(trainer, "abstained") == [len(batch.abstentions) / 8]
    assert logged(trainer, "answer_found") == [1.0]
    assert 0.1 < logged(trainer, "top_share")[0] < 1
    assert logged(trainer, "seconds")[0] > 0


@pytest.mark.filterwarnings("ignore:credit 'flow' judged none")
def test_trackers_see_why_nothing_was_judged_and_uniform_too(tokenizer, tmp_path):
    trainer = train(tokenizer, tmp_path, credit="flow", task=Never(), steps=1)
    assert logged(trainer, "abstained/no_answer") == [1.0] and logged(trainer, "answer_found") == [0.0]
    uniform = train(tokenizer, tmp_path, credit="uniform", task=Letters(), steps=1)
    assert logged(uniform, "mean_weight") == [1.0] and logged(uniform, "up_weighted") == [0.0]
    assert logged(uniform, "abstained") == [0.0] and logged(uniform, "answer_found") == [1.0]


def test_responses_that_are_masked_out_do_not_count_as_abstained(tokenizer, tmp_path):
    """Cut off responses have no part in the loss: nobody judges them, and they are no abstentions."""
    trainer = train(
        tokenizer, tmp_path, credit="flow", task=Letters(), steps=1, mask_truncated_completions=True
    )
    batch = trainer.rollouts
    masked = [row for row, ids in enumerate(batch.response_ids) if ids[-1] != 1]
    assert masked and not set(masked) & set(batch.abstentions)
    assert (batch.weights[masked] == 1).all()


def test_logged_completions_have_their_weights(tokenizer, tmp_path):
    changes = {"log_completions": True, **SEAMS["old, in chunks"], "logging_steps": 1}
    trainer = train(tokenizer, tmp_path, credit="flow", task=Letters(), steps=2, **changes)
    table = pandas.read_parquet(sorted((tmp_path / "completions").glob("*.parquet"))[-1])
    assert [list(row) for row in table["credit_weights"]] == trainer.rollouts.weights_of_tokens()
    assert table["completion"].tolist() == trainer.rollouts.texts


def test_evaluated_completions_have_no_weights_of_others(tokenizer, tmp_path):
    """TRL logs what it evaluated into the same table, and what was trained on before it and after."""
    evaluated = Dataset.from_dict({"prompt": PROMPTS[:1], "question": ["a"], "gold": ["7"]})
    changes = {"log_completions": True, "eval_strategy": "steps", "eval_steps": 1, "eval_dataset": evaluated}
    trainer = train(
        tokenizer, tmp_path, credit="flow", task=Letters(), steps=2, num_iterations=2,
        per_device_eval_batch_size=4, **changes
    )  # fmt: skip
    table = pandas.read_parquet(sorted((tmp_path / "completions").glob("*.parquet"))[-1])
    batch = trainer.rollouts
    weights = dict(zip(batch.texts, batch.weights_of_tokens(), strict=True))
    shown = [list(row) for row in table["credit_weights"]]
    assert shown[-4:] == [[]] * 4 and len(shown) == 8
    assert all(row in (weights.get(text), []) for text, row in zip(table["completion"], shown, strict=True))


def test_the_model_card_says_which_credit_trained_it(tokenizer, tmp_path):
    train(tokenizer, tmp_path, credit=credit.get("flow", gamma=1.3), task=Letters(), steps=1, save_strategy="steps",
          save_steps=1)  # fmt: skip
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "credit method `flow` (mean_one False, gamma 1.3" in card and "answers by task `Letters`" in card


def test_a_tracker_s_configuration_names_the_credit(tokenizer, tmp_path, monkeypatch):
    """Weights & Biases copies TRL's arguments, which know nothing of credit."""
    seen = {}
    run = SimpleNamespace(
        run=object(), config=SimpleNamespace(update=lambda values, **_: seen.update(values))
    )
    monkeypatch.setitem(sys.modules, "wandb", run)
    board = SimpleNamespace(
        tb_writer=SimpleNamespace(add_text=lambda name, text: seen.update({name + " text": text}))
    )
    described = Described({"credit": "flow", "credit_options": {"gamma": 1.5}}, [board])
    described.on_train_begin(
        SimpleNamespace(report_to=["wandb"]), SimpleNamespace(is_world_process_zero=True), None
    )
    assert seen["credit"] == "flow" and '"gamma": 1.5' in seen["credit text"]


def test_a_function_serves_as_a_task_and_so_does_a_name(tokenizer, tmp_path):
    by_task = train(tokenizer, tmp_path, credit="flow", task=Letters(), steps=1)
    by_function = train(tokenizer, tmp_path, credit="flow", task=Letters().extract, steps=1)
    assert torch.equal(by_task.rollouts.weights, by_function.rollouts.weights)
    with pytest.warns(UserWarning, match="looked for as what task decision takes for one"):
        named = train(tokenizer, tmp_path, credit="flow", task="decision", steps=1)
    assert named.answer_task.name == "decision"


def test_a_loss_that_reads_no_log_probabilities_is_no_silent_no_op(tokenizer, tmp_path):
    """As TRL's loss by a fused kernel: nothing would be traced, and stock GRPO trained under another name."""

    class Fused(CreditGRPOTrainer):
        def logprob_pass(self, passing):
            return passing.whole()

    with pytest.raises(CreditError, match="credit 'flow' was not applied: this loss of TRL's makes no pass"):
        train(tokenizer, tmp_path, cls=Fused, credit="flow", task=Letters(), steps=1)


@pytest.mark.parametrize("name", ["tempo", "ktae"])
def test_additive_methods_add_where_the_advantage_is_zero(tokenizer, tmp_path, name):
    """Rewards of three levels, of which one stands at its group's mean: its tokens change by the addend, no more."""
    losses = []

    class Watched(CreditGRPOTrainer):
        def micro_batch_loss(self, model, inputs):
            losses.append(inputs)
            return super().micro_batch_loss(model, inputs)

    def graded(completions, **_):
        return [(0.0, 0.5, 1.0, 0.5)[index % 4] for index in range(len(completions))]

    trainer = train(tokenizer, tmp_path, cls=Watched, credit=name, task=Letters(), steps=1, reward=graded)
    batch, (inputs,) = trainer.rollouts, losses
    middle = (batch.advantages.abs() < 1e-6).nonzero().flatten().tolist()
    assert len(middle) == 4
    # Of ten random letters hardly any two responses share a beginning, on which tempo's addends stand.
    assert name == "tempo" or (batch.addends[middle] != 0).any()
    for at, row in enumerate(inputs["rollout_index"].tolist()):
        expected = batch.advantages[row] + batch.addends[row]
        assert torch.equal(inputs["advantages"][at], expected)
    assert (batch.weights[middle] == 1).all(), "no factor can show them"
