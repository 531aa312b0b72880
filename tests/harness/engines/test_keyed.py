"""Protects keyed rollouts: a sample is a function of weights, prompt and key, and of nothing else."""

import random

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from harness import ExperimentError, seeds
from harness.engines import keyed, noise
from harness.engines.base import Sample, Sampling
from harness.engines.keyed import sample
from harness.policy import character_tokenizer

PROMPTS = ["ab?", "abcd?", "d?", "ccccccc?", "ba?", "abcd?", "a?", "dbdb?"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return character_tokenizer("abcdefgh?#")


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = Qwen3Config(
            vocab_size=12, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, max_position_embeddings=64, pad_token_id=0, eos_token_id=1,
            bos_token_id=None, tie_word_embeddings=True, initializer_range=0.3, attention_dropout=0.5,
        )  # fmt: skip
        model = Qwen3ForCausalLM(config).eval()
    model.generation_config = GenerationConfig(eos_token_id=[1], pad_token_id=0)
    return model


def draw(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    numbers: list[int] | None = None,
    length: int = 12,
    **options: float,
) -> list[Sample]:
    keys = [seeds.key("test", number) for number in numbers or range(len(prompts))]
    return sample(
        model,
        tokenizer,
        [tokenizer(prompt).input_ids for prompt in prompts],
        keys,
        Sampling(length, **options),
    )


def test_a_sample_does_not_depend_on_its_batch(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Alone, in any order, beside longer prompts: the same ids, and log-probabilities up to rounding."""
    prompts = PROMPTS * 8
    together = draw(model, tokenizer, prompts)
    order = random.Random(0).sample(range(len(prompts)), len(prompts))
    shuffled = draw(model, tokenizer, [prompts[index] for index in order], order)
    halves = draw(model, tokenizer, prompts[:5], list(range(5))) + draw(
        model, tokenizer, prompts[5:], list(range(5, len(prompts)))
    )
    for position, index in enumerate(order):
        assert shuffled[position].ids == together[index].ids
        assert shuffled[position].logprobs == pytest.approx(together[index].logprobs, abs=1e-4)
    for index, one in enumerate(halves):
        assert one.ids == together[index].ids
    for index in range(8):
        assert draw(model, tokenizer, [prompts[index]], [index])[0].ids == together[index].ids


def test_one_call_twice_is_identical(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    assert draw(model, tokenizer, PROMPTS) == draw(model, tokenizer, PROMPTS)


def test_keys_decide(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    samples = draw(model, tokenizer, ["abcd?"] * 16)
    assert len({tuple(one.ids) for one in samples}) > 12


def test_a_longer_limit_only_continues(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    short, long = (draw(model, tokenizer, PROMPTS, length=length) for length in (3, 12))
    for one, other in zip(short, long, strict=True):
        assert other.ids[: len(one.ids)] == one.ids


def test_no_global_generator_moves(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = draw(model, tokenizer, PROMPTS)
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(before[0], after[0]) and np.array_equal(before[1], after[1]) and before[2] == after[2]
    torch.rand(1), np.random.rand(), random.random()
    assert draw(model, tokenizer, PROMPTS) == first


def test_frequencies_are_the_models_probabilities(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    count = 4000
    ids = tokenizer("abcd?").input_ids
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0, -1].softmax(-1).numpy()
    keys = [seeds.key("frequency", index) for index in range(count)]
    drawn = [one.ids[0] for one in sample(model, tokenizer, [ids] * count, keys, Sampling(1))]
    observed = np.bincount(drawn, minlength=12) / count
    assert np.all(np.abs(observed - expected) < 4.5 * np.sqrt(expected * (1 - expected) / count) + 1e-9)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.6}, {"temperature": 2.0, "top_k": 5, "top_p": 0.9}],
)
def test_logprobs_are_those_of_the_sampled_distribution(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, options: dict[str, float]
) -> None:
    """Against a plain forward over the finished text, warped by hand."""
    for prompt, one in zip(PROMPTS, draw(model, tokenizer, PROMPTS, **options), strict=True):
        ids = tokenizer(prompt).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([ids + one.ids])).logits[0, len(ids) - 1 : -1]
        logits = logits / options.get("temperature", 1.0)
        if "top_k" in options:
            smallest = logits.topk(int(options["top_k"])).values[:, -1:]
            logits = logits.masked_fill(logits < smallest, -torch.inf)
        if "top_p" in options:
            ordered = logits.softmax(-1).sort(descending=True)
            outside = ordered.values.cumsum(-1) - ordered.values >= options["top_p"]
            logits = logits.masked_fill(outside.gather(1, ordered.indices.argsort(-1)), -torch.inf)
        expected = logits.log_softmax(-1).gather(1, torch.tensor(one.ids)[:, None]).squeeze(1)
        assert torch.isfinite(expected).all()
        assert one.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def test_temperature_zero_is_greedy(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    first, second = (
        draw(model, tokenizer, PROMPTS, numbers, temperature=0) for numbers in (None, [*range(20, 28)])
    )
    assert first == second
    ids = tokenizer(PROMPTS[0]).input_ids
    expected = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=12)
    assert expected[0, len(ids) :].tolist() == first[0].ids


def with_logits(model: Qwen3ForCausalLM, favourite: int) -> torch.utils.hooks.RemovableHandle:
    def favour(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[..., favourite] += 1000
        return output

    return model.lm_head.register_forward_hook(favour)


def test_an_empty_response_is_one_end_token(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    handle = with_logits(model, favourite=1)
    try:
        samples = draw(model, tokenizer, PROMPTS)
    finally:
        handle.remove()
    assert {(*one.ids, one.text, one.finish_reason) for one in samples} == {(1, "", "stop")}
    assert all(one.logprobs == pytest.approx([0.0]) for one in samples)


@pytest.mark.parametrize("length", [1, 5])
def test_a_response_without_an_end_is_cut(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, length: int
) -> None:
    handle = with_logits(model, favourite=3)
    try:
        samples = draw(model, tokenizer, PROMPTS, length=length)
    finally:
        handle.remove()
    assert {(*one.ids, one.text, one.finish_reason) for one in samples} == {
        (*[3] * length, "b" * length, "length")
    }


def test_an_end_at_the_last_position_is_a_stop(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    handle = with_logits(model, favourite=1)
    try:
        (one,) = draw(model, tokenizer, ["a?"], length=1)
    finally:
        handle.remove()
    assert one.finish_reason == "stop"


def test_an_end_token_that_also_pads(model: Qwen3ForCausalLM) -> None:
    """Policies without a spare token pad with their end token: ends are found by position."""
    own = character_tokenizer("abcdefgh?#")
    expected = draw(model, own, PROMPTS * 4)
    own.pad_token = own.eos_token
    assert draw(model, own, PROMPTS * 4) == expected
    assert any(one.finish_reason == "stop" for one in expected) and all(
        one.ids.count(1) <= 1 for one in expected
    )


def test_a_published_configuration_does_not_leak_in(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    expected = draw(model, tokenizer, PROMPTS)
    own = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=True,
        top_k=1,
        repetition_penalty=9.0,
        no_repeat_ngram_size=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    try:
        assert draw(model, tokenizer, PROMPTS) == expected
        assert model.generation_config.top_k == 1
    finally:
        model.generation_config = own


def test_the_model_comes_back_in_its_mode(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    """In training, with dropout and gradient checkpointing on: neither touches the samples, both stay on."""
    expected = draw(model, tokenizer, PROMPTS)
    model.train()
    model.model.layers[0].mlp.eval()
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    modes = [module.training for module in model.modules()]
    try:
        assert draw(model, tokenizer, PROMPTS) == expected
        assert [module.training for module in model.modules()] == modes
        assert model.is_gradient_checkpointing and model.config.use_cache is False
        model(
            torch.tensor([[2, 3]])
        ).logits.sum().backward()  # no tensor of the rollout stayed behind in the graph
    finally:
        model.zero_grad()
        model.gradient_checkpointing_disable()
        model.config.use_cache = True
        model.eval()


class WithNoise(LogitsProcessor):
    """The noise as a logits processor inside the loop of transformers itself, position by position."""

    def __init__(self, keys: list[str], width: int) -> None:
        self.keys, self.width = noise.words(keys), width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        position = torch.tensor([input_ids.shape[1] - self.width])
        return scores + noise.gumbel(self.keys, position, scores.shape[1])[:, 0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("cached", [True, False])
def test_the_loop_writes_what_that_of_transformers_writes(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, temperature: float, cached: bool
) -> None:
    """With the same noise, bit for bit: tokens, ends, and the log-probabilities of scores before the noise."""
    prompts = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    width = max(map(len, prompts))
    batch = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts])
    keys = [seeds.key("test", number) for number in range(len(prompts))]
    given = model.generate(
        batch,
        attention_mask=(torch.arange(width) >= width - torch.tensor([[len(ids)] for ids in prompts])).long(),
        generation_config=GenerationConfig(
            max_new_tokens=20, do_sample=False, eos_token_id=[1], pad_token_id=0, use_cache=cached,
            return_dict_in_generate=True, output_logits=True,
        ),
        logits_processor=LogitsProcessorList([WithNoise(keys, width)] if temperature else []),
    )  # fmt: skip
    bare = keyed.GenerationConfig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyed, "GenerationConfig", lambda **options: bare(**options, use_cache=cached))
        ours = sample(model, tokenizer, prompts, keys, Sampling(20, temperature))
    assert len({len(one.ids) for one in ours}) > 1, "some rows end before others"
    logprobs = torch.stack(given.logits, dim=1).log_softmax(-1)
    for row, one in enumerate(ours):
        written = given.sequences[row, width:].tolist()
        assert one.ids == written[: len(one.ids)] and set(written[len(one.ids) :]) <= {0}
        expected = [float(logprobs[row, place, token]) for place, token in enumerate(one.ids)]
        assert one.logprobs == expected


@pytest.mark.parametrize("at_once", [1, 200])
def test_log_probabilities_do_not_depend_on_how_many_are_computed_at_once(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
) -> None:
    expected = draw(model, tokenizer, PROMPTS, temperature=0.7, top_k=5)
    monkeypatch.setattr(keyed, "AT_ONCE", at_once)
    assert draw(model, tokenizer, PROMPTS, temperature=0.7, top_k=5) == expected


def test_modes_are_restored_when_generation_fails(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = model.generation_config
    monkeypatch.setattr(model, "generate", lambda *_, **__: 1 / 0)
    model.train()
    try:
        with pytest.raises(ZeroDivisionError):
            draw(model, tokenizer, ["a?"])
        assert model.training and model.generation_config is own
    finally:
        model.eval()


def test_nothing_asked_is_nothing_answered(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert sample(model, tokenizer, [], [], Sampling(4)) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"length": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"length": 60}, "at most 56"),
    ],
)
def test_meaningless_options_are_refused(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, options: dict, said: str
) -> None:
    with pytest.raises(ExperimentError, match=said) as error:
        draw(model, tokenizer, PROMPTS, **options)
    assert "\n" not in str(error.value)


def test_keys_and_prompts_are_checked(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    key = seeds.key("test")
    with pytest.raises(ValueError, match="twice"):
        sample(model, tokenizer, [[2], [2]], [key, key], Sampling(4))
    with pytest.raises(ValueError, match="as many keys"):
        sample(model, tokenizer, [[2], [2]], [key], Sampling(4))
    with pytest.raises(ValueError, match="without tokens"):
        sample(model, tokenizer, [[]], [key], Sampling(4))


def test_samples_are_heard_of_as_they_end(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Each once and as it is returned; those that end first are heard of first."""
    ids = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    keys = [seeds.key("heard", row) for row in range(len(ids))]
    heard: list[tuple[int, Sample]] = []
    samples = sample(model, tokenizer, ids, keys, Sampling(20), finished=lambda *one: heard.append(one))
    assert samples == sample(model, tokenizer, ids, keys, Sampling(20))
    assert sorted(row for row, _ in heard) == list(range(len(ids)))
    assert all(samples[row] == one for row, one in heard)
    lengths = [len(one.ids) for _, one in heard]
    assert lengths == sorted(lengths) and len(set(lengths)) > 2
