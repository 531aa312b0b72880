"""Protects every experiment that ships, to the largest: built at a toy's size, it trains two steps and is evaluated.

Policies are random ones of the same architecture and heads, with few channels and layers and a character tokenizer;
data sets are stand-ins. Run are as many experiments as it takes to see every choice that any of them makes. What
depends on the real depth, the traced layers, is looked at without a run.
"""

import dataclasses
import json
import string

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from flowtracer import AttentionTap, credit
from harness import experiment, plan, policy, shapes
from harness.runs import run
from leaderboards import read_run
from tasks import Verdict, kind

TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def small(name):
    """The experiment at a toy's size, with its arms uniform and flow: what is no size stays as declared.

    But for bfloat16, which is slow on a CPU, and vLLM, which is not installed here: both have tests of their own.
    """
    built = experiment.load(name)
    training = dataclasses.replace(
        built.training, steps=2, prompts_per_step=1, samples_per_prompt=4, max_response_tokens=6,
        micro_batch=2 if built.training.micro_batch else 0, learning_rate=1e-3, save_every=25,
    )  # fmt: skip
    # All the test sets of the paper in one experiment, and one of them in the others.
    sets = built.evaluation.more if name == "paper-4b-1k" else built.evaluation.more[:1]
    more = tuple(dataclasses.replace(one, problems=1, samples=2, max_response_tokens=None) for one in sets)
    evaluation = dataclasses.replace(
        built.evaluation, every=2, problems=2, samples=1, batch_size=8, temperature=1.0, more=more
    )
    first = next(options for options in built.methods.values() if options["credit"] == "flow")
    flow = {key: value for key, value in first.items() if key != "layers"}
    methods = {"uniform": {"credit": "uniform"}, "flow": flow}
    return dataclasses.replace(
        built,
        policy=dataclasses.replace(built.policy, dtype="float32"),
        engine="transformers",
        seeds=1,
        training=training,
        evaluation=evaluation,
        methods=methods,
    )


def choices(name):
    """What an experiment asks of the code that some other one may not."""
    built = experiment.load(name)
    shape, training = shapes.shape_of(built.policy.name), built.training
    return {
        ("policy", shape.layers, shape.tied, shape.normalised, built.policy.chat),
        ("task", json.dumps(built.task, sort_keys=True)),
        ("loss", training.loss_type, training.scale_rewards, training.reward),
        ("parts", training.micro_batch > 0, training.gradient_checkpointing),
    }


def covering():
    """Few experiments that ask, together, all that any of them asks."""
    chosen, covered = [], set()
    for name in sorted(experiment.names(), key=lambda name: (name != "paper-4b-1k", len(name), name)):
        if choices(name) - covered:
            chosen.append(name)
            covered |= choices(name)
    return chosen


def evaluated():
    """Of those, one for each way to be evaluated."""
    ways = {}
    for name in covering():
        built = experiment.load(name)
        ways.setdefault((built.policy.chat, json.dumps(built.task, sort_keys=True)), name)
    return set(ways.values())


EVALUATED = evaluated()


def small_model(shape, vocabulary, layers):
    """A random policy of that architecture with few channels."""
    kinds = (Qwen3Config, Qwen3ForCausalLM) if shape.normalised else (LlamaConfig, LlamaForCausalLM)
    torch.manual_seed(0)
    return kinds[1](
        kinds[0](
            vocab_size=vocabulary, hidden_size=shape.heads, intermediate_size=16, head_dim=4,
            num_hidden_layers=layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads,
            tie_word_embeddings=shape.tied, max_position_embeddings=1024, pad_token_id=0, eos_token_id=1,
            bos_token_id=None, attn_implementation="sdpa",
        )
    )  # fmt: skip


def small_policy(name, chat, folder):
    """A folder with a small random policy; the name of a shipped one, which is small enough."""
    if name in policy.SHIPPED:
        return name
    tokenizer = policy.character_tokenizer(string.printable)
    tokenizer.chat_template = TEMPLATE if chat else None
    model = small_model(shapes.shape_of(name), len(tokenizer), layers=3)
    model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with as many items of every published set as two steps need; no two of them overlap."""
    folder = tmp_path_factory.mktemp("data")

    def write(name, first, **fields):
        rows = [{key: make(number) for key, make in fields.items()} for number in range(first, first + 10)]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def asked(number):
        return f"What is {number} plus {number}?"

    def answer(number):
        return str(2 * number)

    def solution(number):
        return f"It is \\boxed{{{2 * number}}}."

    def messages(number):
        return [{"role": "user", "content": asked(number)}]

    def gold(number):
        return {"ground_truth": answer(number)}

    write("dapo_math_train.jsonl", 0, prompt=messages, reward_model=gold)
    write("crossthink_qa.jsonl", 100, prompt=messages, reward_model=gold)
    write("aime24.jsonl", 200, problem=asked, answer=answer)
    write("aime25.jsonl", 300, problem=asked, answer=answer)
    write("amc23.jsonl", 400, question=asked, answer=lambda number: 2.0 * number)
    write("math500.jsonl", 500, question=asked, answer=solution)
    write("minerva_math.jsonl", 600, problem=asked, solution=solution)
    write("olympiadbench.jsonl", 700, question=asked, final_answer=lambda number: [answer(number)])
    for place, split in enumerate(("train", "test")):
        write(f"gsm8k_{split}.jsonl", 800 + 20 * place, question=asked, answer=lambda n: f"#### {2 * n}")
        write(f"math_{split}.jsonl", 900 + 20 * place, problem=asked, solution=solution)
    return folder


@pytest.mark.parametrize("name", covering())
def test_two_steps_and_an_evaluation(name, data, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWTRACER_DATA", str(data))
    built = small(name)
    folder = small_policy(built.policy.name, built.policy.chat is not False, tmp_path / "policy")
    built = dataclasses.replace(built, policy=dataclasses.replace(built.policy, name=folder))
    # A random policy marks no answer. Its last character is one here: there is something to trace and to reward.
    task = kind(built.task["name"])
    monkeypatch.setattr(task, "extract", lambda self, text: (len(text) - 1, len(text)) if text else None)
    monkeypatch.setattr(
        task, "judge", lambda self, problem, text: Verdict.CORRECT if ord(text) % 2 else Verdict.WRONG
    )
    rollouts = {}
    for label in built.methods:
        assert run.train(built, label, 0, tmp_path / label)
        recorded = read_run(tmp_path / label)
        steps = recorded.table("steps").to_pylist()
        assert [step["step"] for step in steps] == [0, 1]
        # Something was learnt wherever rewards differed, or were drawn.
        assert all((step["gradient_norm"] > 0) == (step["signal_share"] > 0) for step in steps)
        rollouts[label] = recorded.table("rollouts").to_pylist()
    flow, uniform = rollouts["flow"], rollouts["uniform"]
    assert [row["response_ids"] for row in flow[:4]] == [row["response_ids"] for row in uniform[:4]]
    assert max(weight for row in flow for weight in row["weights"]) > 1
    if name not in EVALUATED:
        return
    assert run.evaluate(built, "flow", 0, tmp_path / "flow")
    samples = read_run(tmp_path / "flow").table("samples").to_pylist()
    own = {built.task["name"]} if "test" in task.splits else set()
    assert {row["task"] for row in samples} == own | {extra.task["name"] for extra in built.evaluation.more}
    assert {row["step"] for row in samples} == {0, 2}


def test_every_arm_can_trace_its_policy():
    """Layers are ranges of the real depth, and options those of the real arms; every experiment has a plan."""
    models = {}
    for name in experiment.names():
        built = experiment.load(name)
        shape = shapes.shape_of(built.policy.name)
        if shape not in models:
            models[shape] = small_model(shape, 8, shape.layers)
        for label in built.methods:
            credit_name, options = built.credit_of(label)
            method = credit.get(credit_name, **options)
            if method.reading() is not None:
                AttentionTap(models[shape], getattr(method, "layers", "middle"))
        plan.plan(built)
