"""Protects `weigh`: the trainer's own weights, bit for bit, for whoever trains with another loop."""

import random
import re
from pathlib import Path

import numpy
import pytest
import torch

from flowtracer import CreditError, credit, weigh
from flowtracer.weighing import read_responses
from tests.flowtracer.conftest import tiny_model
from tests.flowtracer.credit.cases import SAMPLING
from tests.flowtracer.test_trainer import SEAMS, Letters, count_letters, right, train


def policy():
    """The policy that `train` begins with."""
    return tiny_model("qwen3", seed=3)


def short(name, **options):
    """A method by its name, with windows that fit short responses."""
    windows = {"near": 2, "far": 5} if name in ("global_anchor", "coupled", "local_chunk") else {}
    return credit.get(name, **windows, **options)


#: Continuous functions of what a forward shows: TRL computes log-probabilities and entropies by a fused head.
CONTINUOUS = (
    "attention_entropy",
    "delight",
    "entropy_advantage",
    "gtpo",
    "oar_perturb",
    "oppo",
    "opsd",
    "otb",
    "probability",
    "rlsd",
)


@pytest.mark.parametrize("name", sorted({*credit.names()} - SAMPLING))
def test_weights_are_those_of_the_trainer(tokenizer, tmp_path, name):
    """The same rows in the same layout, from texts that were sampled: bit for bit, for every registered method."""
    method = short(name)
    reward = right if name == "oppo" else count_letters  # a chance of success needs rewards of 0 and 1
    batch = train(tokenizer, tmp_path, credit=method, task=Letters(), steps=1, reward=reward).rollouts
    weighed = weigh(
        policy(),
        tokenizer,
        batch.prompt_ids,
        batch.response_ids,
        method,
        task=Letters(),
        rewards=batch.rewards,
        groups=batch.group,
        advantages=batch.advantages,
        questions=[row["question"] for row in batch.rows],
        golds=[row["gold"] for row in batch.rows],
        seed=5,
    )
    assert len(weighed) == len(batch.response_ids)
    for row, (ours, ids) in enumerate(zip(weighed, batch.response_ids, strict=True)):
        theirs = batch.weights[row, : len(ids)]
        if name in CONTINUOUS:
            torch.testing.assert_close(ours.weights, theirs, rtol=0, atol=1e-5)
        else:
            assert torch.equal(ours.weights, theirs), name
        assert ours.token_ids == ids and ours.text == batch.texts[row]
        assert ours.abstained == batch.abstentions.get(row)


@pytest.mark.parametrize("seam", [seam for seam in SEAMS if seam != "accumulated"])
def test_weights_are_those_of_every_seam(tokenizer, tmp_path, seam):
    batch = train(tokenizer, tmp_path, credit="flow", task=Letters(), steps=1, **SEAMS[seam]).rollouts
    weighed = weigh(policy(), tokenizer, batch.prompt_ids, batch.response_ids, task=Letters(), batch_size=4)
    for ours, theirs in zip(weighed, batch.weights, strict=True):
        assert torch.equal(ours.weights, theirs[: len(ours.weights)])


def test_the_model_and_global_generators_are_left_as_they_were(tokenizer):
    model = policy().train()
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    for name in sorted({*credit.names()} - SAMPLING):
        method = short(name)
        weigh(model, tokenizer, ["abc?"] * 2, ["abcab", "bca"], method, task=Letters(), rewards=[1.0, 0.0],
              groups=[0, 0], advantages=[1.0, -1.0], golds=["7", "7"])  # fmt: skip
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert before[2] == numpy.random.get_state()[1].tolist()
    assert model.training and not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_texts_and_token_ids_are_the_same(tokenizer):
    texts = weigh(policy(), tokenizer, ["abc?"], ["abcab"], task=Letters())[0]
    ids = weigh(
        policy(), tokenizer, [tokenizer("abc?").input_ids], [tokenizer("abcab").input_ids], task=Letters()
    )
    assert torch.equal(texts.weights, ids[0].weights) and texts.text == "abcab"
    assert texts.spans == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)] and texts.answer == [4]


def test_padding_and_batch_size_change_no_weight(tokenizer):
    responses = ["abcab", "a", "abcdefgh"]
    together = weigh(policy(), tokenizer, ["abc?", "a?", "dcbaabcd?"], responses, task=Letters())
    alone = [
        weigh(policy(), tokenizer, [prompt], [response], task=Letters())[0]
        for prompt, response in zip(["abc?", "a?", "dcbaabcd?"], responses, strict=True)
    ]
    split = weigh(policy(), tokenizer, ["abc?", "a?", "dcbaabcd?"], responses, task=Letters(), batch_size=2)
    for first, second, third in zip(together, alone, split, strict=True):
        assert torch.equal(first.weights, second.weights) and torch.equal(first.weights, third.weights)


def test_applied_is_the_advantage_of_each_token(tokenizer):
    for name in ("flow", "tempo", "ktae"):
        weighed = weigh(policy(), tokenizer, ["abc?"] * 4, ["abca", "abcb", "bca", "bcb"], name, task=Letters(),
                        rewards=[1.0, 0.5, 0.0, 0.5], groups=[7] * 4, advantages=[1.0, 0.0, -1.0, 0.0])  # fmt: skip
        for response, advantage in zip(weighed, (1.0, 0.0, -1.0, 0.0), strict=True):
            applied = response.applied(advantage)
            assert applied.shape == (len(response.token_ids),)
            if response.addend is None:
                assert torch.equal(applied, advantage * response.weights)
            else:
                assert torch.equal(applied, advantage + response.addend)


def test_a_function_finds_the_answer(tokenizer):
    by_task = weigh(policy(), tokenizer, ["abc?"], ["abcab"], task=Letters())[0]
    by_function = weigh(
        policy(), tokenizer, ["abc?"], ["abcab"], task=lambda text: (len(text) - 1, len(text))
    )[0]
    assert torch.equal(by_task.weights, by_function.weights)
    assert weigh(policy(), tokenizer, ["abc?"], ["abcab"])[0].abstained == "no answer"


def test_only_tokens_of_the_policy_are_answers_and_are_weighed(tokenizer):
    """`b` of the second turn is a tool's: the answer is the last letter before it, and the tool's tokens weigh 1."""
    mask = [1, 1, 1, 0, 0]
    weighed = weigh(policy(), tokenizer, ["abc?"], ["abcbb"], task=Letters(), masks=[mask])[0]
    assert weighed.answer == [2] and weighed.weights[3:].tolist() == [1.0, 1.0]
    two_turns = weigh(policy(), tokenizer, ["abc?"], ["abcbba"], task=Letters(), masks=[[*mask, 1]])[0]
    assert two_turns.answer == [5]


def test_the_question_alone_is_the_source(tokenizer):
    method = credit.get("flow", source="question", layers="all")
    read = read_responses(policy(), tokenizer, ["abc?", "a?"], ["bca", "b"], method, task=Letters(),
                          questions=["bc", "a"])  # fmt: skip
    assert read.context.source.sum(1).tolist() == [2, 1]
    with pytest.raises(CreditError, match="source='question' needs the question's text for each prompt"):
        weigh(policy(), tokenizer, ["abc?"], ["bca"], method, task=Letters())


def test_the_context_ranks_by_other_options_of_the_method(tokenizer):
    """What an intervention does: one forward, many ratios."""
    read = read_responses(policy(), tokenizer, ["abc?"], ["abcabcabca"], task=Letters())
    assert read.context.capacity is None and read.context.scores.shape == (1, 14)
    for ratio in (0.2, 0.6):
        weights = credit.get("flow", ratio=ratio)(read.context)
        expected = weigh(
            policy(), tokenizer, ["abc?"], ["abcabcabca"], credit.get("flow", ratio=ratio), task=Letters()
        )
        assert torch.equal(weights[0, 4:], expected[0].weights)
        assert torch.equal(expected[0].scores, read.context.scores[0, 4:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"responses": ["abc", "ab"]}, "2 responses for 1 prompts: give one for each prompt"),
        ({"rewards": [1.0, 2.0]}, "2 rewards for 1 prompts"),
        ({"prompts": [], "responses": []}, "no prompts: give at least one"),
        ({"prompts": [""]}, "the prompt is empty"),
        ({"responses": [[]]}, "the response is empty"),
        ({"responses": [[99]]}, "token ids from 2 to 99 do not fit a vocabulary of 32"),
        ({"credit": "floww"}, "unknown credit method 'floww'"),
        ({"credit": None}, "credit=None is no credit method: give a name"),
        ({"credit": type(credit.get("flow"))}, "this is a class; give credit.get.'flow'"),
        ({"credit": "tempo"}, "tempo needs the advantages"),
        ({"credit": "oracle", "task": lambda text: None}, "needs a task that knows its decisive tokens"),
        ({"task": Letters}, "task=Letters: this is a class; give an instance"),
        ({"task": 3}, "task=3 finds no answer: give a task, its name, or a function"),
        ({"masks": [[1, 0]]}, r"masks\[0\] has 2 entries for a response of 3 tokens: give one for each"),
        ({"task": "decisionn"}, "task='decisionn' is not known; did you mean 'decision'?"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tokenizer, changes, message):
    given = {"prompts": ["abc?"], "responses": ["abc"], "task": Letters(), **changes}
    with pytest.raises(CreditError, match=message) as caught:
        weigh(policy(), tokenizer, given.pop("prompts"), given.pop("responses"), **given)
    assert "\n" not in str(caught.value)


def test_a_package_of_the_user_s_that_hides_the_tasks_is_named(tokenizer, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tasks.py").write_text("mine = 1")
    for name in [name for name in __import__("sys").modules if name.partition(".")[0] == "tasks"]:
        monkeypatch.delitem(__import__("sys").modules, name)
    with pytest.raises(
        CreditError, match=r"task='decision': .*tasks.py hides the package `tasks` of flowtracer"
    ):
        weigh(policy(), tokenizer, ["abc?"], ["abc"], task="decision")
    __import__("sys").modules.pop("tasks")


def test_the_loop_of_the_documentation_learns(tokenizer):
    """docs/weigh.md: its code runs as it stands, and the policy prefers what was rewarded."""
    text = Path(__file__).parents[2].joinpath("docs/weigh.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("#")]) <= 24
    model = policy()
    names = {
        "model": model,
        "tokenizer": tokenizer,
        "prompts": ["abc?", "a?"],
        "reward": lambda prompt, response: float(response.count("a")),
        "task": Letters(),
    }
    torch.manual_seed(0)
    exec(compile(code, "docs/weigh.md", "exec"), names)
    assert names["history"][-1] > names["history"][0] + 0.5


@pytest.mark.parametrize("name", sorted(SAMPLING))
def test_methods_that_sample_further_responses_are_for_a_training(tokenizer, name):
    with pytest.raises(
        CreditError, match=f"credit '{name}' samples further responses .*flowtracer train"
    ) as raised:
        weigh(policy(), tokenizer, ["abc?"], ["abcab"], name, task=Letters())
    assert "\n" not in str(raised.value)
