"""Protects rollouts on vLLM in the training process: it computes what transformers computes, with the weights of now; a
key alone decides its sample; nothing outside the engine moves. Runs where vLLM is (`nox -s tests_vllm`).
"""

import importlib.util
import itertools
import random
import string

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from harness import seeds
from harness.engines import choice, vllm
from harness.engines.base import ALONE, Engine, EngineChoice, EngineError, Sample, Sampling
from harness.errors import ExperimentError
from harness.policy import Policy, character_tokenizer

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")

CONTEXT, ROWS, LENGTH = 64, 16, 12
PROMPTS = [[3, 4, 5, 6], [7, 8, 9], [10, 11, 12, 13, 14, 15, 16], [20, 30]]


def policy(seed: int) -> Policy:
    """A random policy. Its head width is 32 because vLLM's attention on CPU knows no narrower one."""
    tokenizer = character_tokenizer(string.ascii_letters + string.digits)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = Qwen3Config(
            vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=32, max_position_embeddings=128, initializer_range=0.2, eos_token_id=1,
            pad_token_id=0,
        )  # fmt: skip
        model = Qwen3ForCausalLM(config).eval()
    model.generation_config = GenerationConfig(eos_token_id=[1], pad_token_id=0)
    return Policy(model, tokenizer)


def start(name: str, held: Policy) -> Engine:
    return choice.start(EngineChoice(name), held, CONTEXT, ROWS, ALONE)


def keys(count: int) -> list[str]:
    return [seeds.key("test", number) for number in range(count)]


@torch.no_grad()
def logits(held: Policy, prompt: list[int], response: list[int]) -> torch.Tensor:
    """What the policy itself says before each token of a response, (tokens, vocabulary)."""
    return held.model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]


def test_greedy_samples_are_those_of_transformers() -> None:
    """But where the two best logits lie within 1e-3, which rounding may turn round."""
    held = policy(0)
    theirs = start("vllm", held).sample(PROMPTS, keys(4), Sampling(LENGTH, temperature=0.0))
    ours = start("transformers", held).sample(PROMPTS, keys(4), Sampling(LENGTH, temperature=0.0))
    same = 0
    for prompt, one, other in zip(PROMPTS, ours, theirs, strict=True):
        if one.ids == other.ids:
            same += 1
            assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
            assert other.logprobs == pytest.approx(one.logprobs, abs=1e-3)
            continue
        at = next(i for i, pair in enumerate(itertools.zip_longest(one.ids, other.ids)) if pair[0] != pair[1])
        best = logits(held, prompt, one.ids)[at].topk(2).values
        assert best[0] - best[1] < 1e-3
    assert same


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_after_an_update_samples_and_logprobs_are_the_new_policy_s(temperature: float) -> None:
    """An engine that kept the old weights would train on samples of another policy, in silence; and TRL corrects by
    log-probabilities at the temperature that was sampled with.
    """
    before, after = policy(0), policy(1)
    engine = start("vllm", before)
    engine.take(after.model)
    for prompt, one in zip(
        PROMPTS, engine.sample(PROMPTS, keys(4), Sampling(LENGTH, temperature)), strict=True
    ):
        for held, same in ((after, True), (before, False)):
            scores = torch.log_softmax(logits(held, prompt, one.ids) / temperature, dim=-1)
            expected = scores.gather(1, torch.tensor(one.ids)[:, None])[:, 0].tolist()
            assert (one.logprobs == pytest.approx(expected, abs=1e-3)) is same


def test_adapters_are_part_of_the_weights() -> None:
    peft = pytest.importorskip("peft")
    held, plain = policy(0), policy(0)
    adapted = peft.get_peft_model(held.model, peft.LoraConfig(r=2, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    engine = start("vllm", plain)
    without = engine.sample(PROMPTS, keys(4), Sampling(LENGTH, 0.0))
    engine.take(adapted)
    (one, *_) = found = engine.sample(PROMPTS, keys(4), Sampling(LENGTH, 0.0))
    assert [sample.ids for sample in found] != [sample.ids for sample in without]
    with torch.no_grad():
        said = adapted(torch.tensor([PROMPTS[0] + one.ids])).logits[0, len(PROMPTS[0]) - 1 : -1]
    assert one.ids == said.argmax(-1).tolist()


def test_a_key_decides_its_sample_whatever_is_around_it() -> None:
    """On a CPU and in float32. On a GPU without batch-invariant kernels it need not hold; no run claims it there."""
    engine = start("vllm", policy(0))
    prompts = [PROMPTS[number % 4] for number in range(ROWS)]
    together = engine.sample(prompts, keys(ROWS), Sampling(LENGTH))
    alone = [
        engine.sample([prompt], [key], Sampling(LENGTH))[0]
        for prompt, key in zip(prompts, keys(ROWS), strict=True)
    ]
    assert [one.ids for one in together] == [one.ids for one in alone]
    assert len({(number % 4, tuple(one.ids)) for number, one in enumerate(together)}) == ROWS
    again = engine.sample(prompts[::-1], keys(ROWS)[::-1], Sampling(LENGTH))[::-1]
    assert [one.ids for one in together] == [one.ids for one in again]


def test_tiers_promise_no_more_than_was_shown() -> None:
    assert choice.tier("vllm") == "T2"


def test_no_generator_outside_moves() -> None:
    """Not when the engine is built, and not when it samples, which on a CPU draws from torch's own."""

    def states() -> list:
        return [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]

    vllm.close()
    threads, before = torch.set_num_threads, states()
    engine = start("vllm", policy(0))
    assert states() == before
    engine.sample(PROMPTS, keys(4), Sampling(LENGTH))
    assert states() == before
    assert torch.set_num_threads is threads


def test_an_interrupted_sampling_leaves_nothing_behind() -> None:
    engine = start("vllm", policy(0))
    expected = engine.sample(PROMPTS, keys(4), Sampling(LENGTH))

    def stop(row: int, one: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.sample([PROMPTS[0], PROMPTS[0]], keys(9)[-2:], Sampling(LENGTH), finished=stop)
    assert engine.sample(PROMPTS, keys(4), Sampling(LENGTH)) == expected


def test_what_breaks_inside_is_one_line_and_the_next_engine_is_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = start("vllm", policy(0))
    with pytest.raises(ExperimentError, match="lower max_new_tokens"):
        engine.sample(PROMPTS, keys(4), Sampling(100))

    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nDetails follow.")

    monkeypatch.setattr(engine.running.llm.llm_engine, "step", fail)
    with pytest.raises(EngineError, match="broke down.*out of memory: lower max_response_tokens") as caught:
        engine.sample(PROMPTS, keys(4), Sampling(LENGTH))
    assert "\n" not in str(caught.value)
    assert len(start("vllm", policy(0)).sample(PROMPTS, keys(4), Sampling(LENGTH))) == 4


#: The sum of three numbers takes the shipped policy some 22 tokens, that of four some 31.
SUMS = ("18+3+49=?", "20+15+1+55=?")


def test_a_response_ends_with_its_end_token_and_says_so() -> None:
    """The character policy, which writes ends; a length that some responses reach and others do not."""
    from harness.policy import load_policy

    held = load_policy("arithmetic")
    prompts = [held.encode(SUMS[row % 2]) for row in range(8)]
    for name in ("transformers", "vllm"):
        samples = start(name, held).sample(prompts, keys(8), Sampling(26))
        assert {one.finish_reason for one in samples} == {"stop", "length"}
        for one in samples:
            assert (one.ids[-1] == 1) == (one.finish_reason == "stop") and 1 not in one.ids[:-1]
            assert len(one.logprobs) == len(one.ids) and (len(one.ids) == 26 or one.finish_reason == "stop")
            assert one.text == held.tokenizer.decode(one.ids, skip_special_tokens=True)


def test_samples_are_heard_of_as_they_end() -> None:
    """Each once, with its row; short ones before long ones."""
    from harness.policy import load_policy

    held = load_policy("arithmetic")
    prompts = [held.encode(SUMS[row % 2]) for row in range(8)]
    for name in ("transformers", "vllm"):
        heard: list[tuple[int, Sample]] = []
        samples = start(name, held).sample(
            prompts, keys(8), Sampling(40), finished=lambda *one, heard=heard: heard.append(one)
        )
        assert sorted(row for row, _ in heard) == list(range(8))
        assert all(samples[row] == one for row, one in heard)
        lengths = [len(one.ids) for _, one in heard]
        assert lengths == sorted(lengths) and len(set(lengths)) > 1
