"""Protects the tap: captured attention is the model's own, outputs are untouched, pads are exactly 0."""

import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AttentionInterface,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from flowtracer import AttentionTap, CreditError, attention, solve_flow, traced_layers
from flowtracer.attention import Capture
from flowtracer.readings import MeanMap, Rollout
from tests.flowtracer.conftest import SIZES, batch, eager_mean, tiny_model

ARCHITECTURES = ["qwen3", "llama", "mistral", "gpt_neox", "gemma"]


@pytest.mark.parametrize("layers", ["middle", "all"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_captured_equals_eager(architecture, padded, layers):
    ids, mask = batch(left_pads=(0, 5, 11) if padded else (0, 0, 0))
    model = tiny_model(architecture)
    tap = AttentionTap(model, layers)
    with torch.no_grad(), tap.open(mask) as capture:
        model(input_ids=ids, attention_mask=mask)
    expected = eager_mean(architecture, ids, mask, tap.layers)
    torch.testing.assert_close(capture.capacity.double(), expected, rtol=0, atol=2e-6)
    pads = ~mask.bool()
    assert (capture.capacity[pads] == 0).all() and (capture.capacity.transpose(1, 2)[pads] == 0).all()
    assert (capture.capacity.triu(1) == 0).all()


MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_local_experts": 4}
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 3,
    "num_key_value_heads": 4,
}  # fmt: skip
OLD_NAMES = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256, "n_inner": 48}
PLAIN = """
    apertus arcee biogpt bitnet cohere cohere2 ernie4_5 exaone4 glm glm4 granite helium hunyuan_v1_dense lfm2
    ministral nemotron olmo olmo2 olmo3 opt persimmon phi phi3 qwen2 seed_oss smollm3 stablelm starcoder2
"""


MIXTURES = "glm4_moe granitemoe mixtral olmoe phimoe qwen2_moe qwen3_moe"


#: Every architecture for which the tap's map was compared with eager attention: the table of what can be traced.
TESTED = {
    **dict.fromkeys(PLAIN.split(), {}),
    **dict.fromkeys(MIXTURES.split(), MIXTURE),
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    # Its scores are divided by the root of this: with the default, attention is nearly uniform.
    "gemma3_text": {"query_pre_attn_scalar": 1},
    "gpt2": OLD_NAMES,
    "gpt_bigcode": OLD_NAMES,
    "llama4_text": {"num_experts_per_tok": 1, "num_local_experts": 2, "interleave_moe_layer_step": 2},
}


LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "shared_expert_intermediate_size": 16,
}  # fmt: skip
#: Hybrids: some of their layers use no attention. The layers that do, and the middle ones of these.
HYBRIDS = {
    "jamba": (
        {**MIXTURE, "num_hidden_layers": 6, "attn_layer_period": 2, "attn_layer_offset": 1,
         "use_mamba_kernels": False, "expert_layer_period": 2, "expert_layer_offset": 1}, [1, 3, 5], [3]),
    "lfm2": ({"num_hidden_layers": 6, "layer_types": ["conv", "full_attention"] * 3}, [1, 3, 5], [3]),
    "minimax": (MIXTURE, [0, 2], [0]),
    "qwen3_5_text": ({"num_hidden_layers": 8, **LINEAR}, [3, 7], [3]),
    "qwen3_next": ({"num_hidden_layers": 12, **MIXTURE, **LINEAR}, [3, 7, 11], [7]),
}  # fmt: skip
#: Each token attends to the 8 that an indexer picks, of 24.
SPARSE = {**LATENT, "index_head_dim": 8, "index_n_heads": 4, "index_topk": 8}
TESTED |= dict.fromkeys(("axk2", "deepseek_v32", "glm_moe_dsa"), SPARSE)
TESTED |= {architecture: changes for architecture, (changes, *_) in HYBRIDS.items()}


@pytest.mark.parametrize("architecture", sorted(TESTED))
def test_architectures(architecture):
    """Captured equals eager, with padding, over all layers, and logits are bit for bit those of an untapped forward.

    What is not in this table may be refused or untested.
    """
    ids, mask = batch(left_pads=(0, 5))
    changes = TESTED[architecture]
    model = tiny_model(architecture, **changes)
    tap = AttentionTap(model, "all")
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        with tap.open(mask) as capture:
            tapped = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    assert torch.equal(plain[mask.bool()], tapped[mask.bool()])
    expected = eager_mean(architecture, ids, mask, tap.layers, **changes)
    torch.testing.assert_close(capture.capacity.double(), expected, rtol=0, atol=2e-6)
    # Against a test that uniform attention would pass.
    assert (expected.amax(-1)[0] * torch.arange(1, 25))[12:].mean() > 1.3


@pytest.mark.parametrize("architecture", sorted(HYBRIDS))
def test_names_of_layers_mean_those_that_attend(architecture):
    changes, attending, middle = HYBRIDS[architecture]
    model = tiny_model(architecture, **changes)
    assert AttentionTap(model, "all").layers == attending
    assert AttentionTap(model).layers == middle
    idle = next(layer for layer in range(12) if layer not in attending)
    with pytest.raises(
        CreditError, match=rf"{idle} of this model use no attention; those that do are {attending[0]}"
    ):
        AttentionTap(model, [idle])


def test_sparse_attention_stays_sparse():
    """Under another name than sdpa these models attend to everything: no token may look at more than its 8."""
    ids, mask = batch(left_pads=(0,))
    model = tiny_model("deepseek_v32", **SPARSE)
    with torch.no_grad(), AttentionTap(model, [1]).open(mask) as capture:
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    assert (capture.capacity[0] > 0).sum(-1).tolist() == [min(8, position + 1) for position in range(24)]


CONDITIONAL = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "mistral3": "ministral3",
    "qwen3_5": "qwen3_5_text",
}


@pytest.mark.parametrize("architecture", sorted(CONDITIONAL))
def test_the_text_decoder_of_a_model_of_images_is_traced(architecture):
    """Text through a conditional class: the map of its text decoder, whose layers are counted by its own table."""
    ids, mask = batch(left_pads=(0, 5))
    text = {**SIZES, **({"num_hidden_layers": 8, **LINEAR} if architecture == "qwen3_5" else {})}
    config = CONFIG_MAPPING[architecture](text_config={**text, "model_type": CONDITIONAL[architecture]})
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_heads": 2,
        "patch_size": 4,
    }
    for name, value in {
        **small,
        "num_hidden_layers": 1,
        "depth": 1,
        "image_size": 8,
        "out_hidden_size": 32,
    }.items():
        if hasattr(config.vision_config, name):
            setattr(config.vision_config, name, value)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
    tap = AttentionTap(model, "all")
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        with tap.open(mask) as capture:
            tapped = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for part in model.modules():
            if getattr(part, "config", None) is not None:
                part.config._attn_implementation = "eager"
        attentions = model(
            input_ids=ids, attention_mask=mask, output_attentions=True, use_cache=False
        ).attentions
    assert tap.layers == ([3, 7] if architecture == "qwen3_5" else [0, 1, 2])
    assert torch.equal(plain[mask.bool()], tapped[mask.bool()])
    maps = [part for part in attentions if part is not None]
    expected = torch.stack(maps).mean((0, 2)) * mask[:, :, None] * mask[:, None, :]
    torch.testing.assert_close(capture.capacity, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("left_pads", [(0, 0), (0, 5)])
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_encoders_are_refused(architecture, left_pads):
    """With and without padding: a mask that shows what lies ahead is as bad as none."""
    ids, mask = batch(left_pads=left_pads)
    model = tiny_model(architecture, is_decoder=False, max_position_embeddings=300)
    tap = AttentionTap(model, "all")
    with torch.no_grad(), pytest.raises(CreditError, match="looks ahead of its own position"), tap.open(mask):
        model(input_ids=ids, attention_mask=mask)


def test_encoder_decoders_are_refused():
    config = CONFIG_MAPPING["bart"](d_model=32, encoder_layers=1, decoder_layers=1, vocab_size=32,
        encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2)  # fmt: skip
    with pytest.raises(CreditError, match="BartForConditionalGeneration has an encoder"):
        AttentionTap(AutoModelForSeq2SeqLM.from_config(config, attn_implementation="sdpa"))


def test_two_threads_trace_two_models_at_once():
    """Each gets the map of its own model: both taps are open while both forwards run, layer by layer in turn."""
    ids, mask = batch(left_pads=(0, 5))
    models = [tiny_model("qwen3", seed=seed) for seed in (0, 1)]
    expected = []
    for model in models:
        with torch.no_grad(), AttentionTap(model, "all").open(mask) as capture:
            model(input_ids=ids, attention_mask=mask)
        expected.append(capture.capacity)
    together = threading.Barrier(2, timeout=60)

    def meet(*_):
        together.wait()

    for model in models:
        for layer in model.model.layers:
            layer.register_forward_pre_hook(meet)

    def trace(model):
        with torch.no_grad(), AttentionTap(model, "all").open(mask) as capture:
            together.wait()
            model(input_ids=ids, attention_mask=mask)
        return capture.capacity

    with ThreadPoolExecutor(2) as threads:
        maps = list(threads.map(trace, models))
    assert torch.equal(maps[0], expected[0]) and torch.equal(maps[1], expected[1])
    assert not torch.equal(*maps)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward


def test_a_tap_that_is_open_in_one_thread_is_closed_in_another():
    """The same model, generating elsewhere meanwhile: its forward is not read, and its outputs are its own."""
    ids, mask = batch(left_pads=(0,))
    model = tiny_model("qwen3")
    with torch.no_grad(), AttentionTap(model, "all").open(mask) as capture:
        with ThreadPoolExecutor(1) as thread:
            generated = thread.submit(model.generate, ids, max_new_tokens=3, do_sample=False).result()
        with pytest.raises(CreditError, match="another attention tap is open in this thread"):
            AttentionTap(model).open(mask).__enter__()
        model(input_ids=ids, attention_mask=mask)
    assert capture.capacity.shape == (1, 24, 24)
    assert torch.equal(generated, model.generate(ids, max_new_tokens=3, do_sample=False))


@pytest.mark.parametrize("reentrant", [False, True])
def test_backward_in_another_thread_never_reads(reentrant):
    """Gradient checkpointing runs layers again in backward, on a GPU in autograd's threads: the tap stays closed."""
    ids, mask = batch(left_pads=(0, 5))
    model = tiny_model("qwen3").train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    tap = AttentionTap(model, "all")
    with tap.open(mask) as capture:
        loss = model(input_ids=ids, attention_mask=mask).logits.square().mean()
    first = capture.capacity.clone()
    with tap.open(mask), ThreadPoolExecutor(1) as thread:
        thread.submit(loss.backward).result()
    assert torch.equal(first, capture.capacity)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_another_model_s_forward_inside_is_not_read():
    ids, mask = batch(left_pads=(0, 5))
    model, reference = tiny_model("qwen3", seed=0), tiny_model("qwen3", seed=1)
    with torch.no_grad(), AttentionTap(model, "all").open(mask) as alone:
        model(input_ids=ids, attention_mask=mask)
    with torch.no_grad(), AttentionTap(model, "all").open(mask) as capture:
        reference(input_ids=ids, attention_mask=mask)
        model(input_ids=ids, attention_mask=mask)
    assert torch.equal(capture.capacity, alone.capacity)


def test_somebody_else_s_sdpa_function_is_refused():
    ids, mask = batch(left_pads=(0,))
    model = tiny_model("qwen3")
    AttentionInterface.register("sdpa", lambda *_, **__: None)
    try:
        with pytest.raises(CreditError, match="another function is registered as transformers' 'sdpa'"):
            AttentionTap(model).open(mask).__enter__()
    finally:
        AttentionInterface.register("sdpa", sdpa_attention_forward)


def test_the_table_of_architectures_lists_what_is_tested():
    table = Path(__file__).parents[2].joinpath("docs/architectures.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:dense|mixture of experts|hybrid|sparse) \| (.*) \|$", table, re.MULTILINE)
    assert sorted(", ".join(rows).split(", ")) == sorted({*TESTED, *ARCHITECTURES})


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("gpt_oss", "has no sdpa attention"),
        ("gptj", "attention"),
        ("bloom", "attention"),
        ("qwen3_next", "has no layer whose attention the tap can read"),
        ("doge", "has no layer whose attention the tap can read"),
    ],
)
def test_architectures_that_are_refused(architecture, message):
    attention = "eager" if architecture in ("gpt_oss", "gptj", "bloom") else "sdpa"
    names = OLD_NAMES if architecture in ("gptj", "bloom") else MIXTURE
    ids, mask = batch(left_pads=(0, 5))
    model = tiny_model(architecture, attention=attention, **{**names, "rotary_dim": 4})

    def read():
        with torch.no_grad(), AttentionTap(model, "all").open(mask) as capture:
            model(input_ids=ids, attention_mask=mask, use_cache=False)
        return capture.capacity

    with pytest.raises(CreditError, match=message):
        read()


def test_compiled_models_are_refused():
    model = tiny_model("qwen3")
    with pytest.raises(CreditError, match="is compiled"):
        AttentionTap(torch.compile(model))
    model.model.layers[1].compile()
    with pytest.raises(CreditError, match="is compiled"):
        AttentionTap(model)


def test_a_model_that_is_split_by_heads_is_refused():
    """Each process would take the mean over its own heads for that over all."""
    model = tiny_model("qwen3")
    model._tp_size = 2
    with pytest.raises(CreditError, match="split over 2 processes by attention heads"):
        AttentionTap(model)


def test_low_rank_adapters_are_looked_through():
    """A policy wrapped by PEFT: the same map as the policy that it wraps, adapters included."""
    peft = pytest.importorskip("peft")
    ids, mask = batch(left_pads=(0, 5))
    model = tiny_model("qwen3")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=4))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    with torch.no_grad(), AttentionTap(adapted, "all").open(mask) as capture:
        adapted(input_ids=ids, attention_mask=mask)
    merged = adapted.merge_and_unload()
    with torch.no_grad(), AttentionTap(merged, "all").open(mask) as expected:
        merged(input_ids=ids, attention_mask=mask)
    torch.testing.assert_close(capture.capacity, expected.capacity, rtol=0, atol=1e-5)
    assert not torch.allclose(expected.capacity, eager_mean("qwen3", ids, mask, range(3)).float(), atol=1e-3)


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_autocast_rounds_what_the_model_computes_and_nothing_else(architecture):
    """bf16=True trains float32 weights so: queries rounded as the op rounds them, probabilities not at all."""
    ids, mask = batch(left_pads=(0, 0))
    model = tiny_model(architecture)
    found = []
    for reading in (MeanMap(24), MeanMap(23), Rollout()):
        with (
            torch.no_grad(),
            torch.autocast("cpu", torch.bfloat16),
            AttentionTap(model, "all").open(mask, reading) as capture,
        ):
            assert model(input_ids=ids, attention_mask=mask).logits.dtype == torch.bfloat16
            (matrix,) = capture.fields.values()
            everything = slice(0, 24)
            found.append(matrix if isinstance(matrix, torch.Tensor) else matrix.tile(everything, everything))
    dense, tiles, rollout = found
    for matrix in (dense, rollout):
        torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 24), rtol=0, atol=1e-6)
    # With the normalisers of the op, which rounds a little itself.
    torch.testing.assert_close(tiles, dense, rtol=0, atol=2e-4)
    position = torch.arange(24).expand(2, 24)
    plain = solve_flow(dense, position < 9, position >= 22)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(solve_flow(dense, position < 9, position >= 22).flow, plain.flow)
        assert torch.is_autocast_enabled("cpu")


def test_right_pads_are_zero_too():
    """TRL pads responses on the right; such rows see the text before them and must not count."""
    ids, mask = batch(left_pads=(0, 0))
    ids[1, -7:], mask[1, -7:] = 0, 0
    model = tiny_model("qwen3")
    with torch.no_grad(), AttentionTap(model).open(mask) as capture:
        model(input_ids=ids, attention_mask=mask)
    assert (capture.capacity[1, -7:] == 0).all() and (capture.capacity[1, :, -7:] == 0).all()
    assert capture.capacity[1, -8].sum() == pytest.approx(1.0, abs=1e-5)


def test_sliding_window_layers_are_read_with_their_window():
    ids, mask = batch(left_pads=(0, 3))
    changes = {"sliding_window": 6}
    model = tiny_model("mistral", **changes)
    with torch.no_grad(), AttentionTap(model, "all").open(mask) as capture:
        model(input_ids=ids, attention_mask=mask)
    expected = eager_mean("mistral", ids, mask, range(3), **changes)
    torch.testing.assert_close(capture.capacity.double(), expected, rtol=0, atol=2e-6)
    assert capture.capacity[0, 20, 10] == 0


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("left_pads", [(0, 0), (0, 7)])
def test_outputs_and_gradients_are_bit_identical(left_pads, checkpointing):
    ids, mask = batch(left_pads=left_pads)

    def run(tapped):
        model = tiny_model("qwen3").train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        if tapped:
            with AttentionTap(model, "all").open(mask) as capture:
                logits = model(input_ids=ids, attention_mask=mask).logits
            first = capture.capacity.clone()
        else:
            logits = model(input_ids=ids, attention_mask=mask).logits
        logits.square().mean().backward()
        if tapped:
            assert torch.equal(first, capture.capacity), "backward must not add to the map"
        return [logits.detach(), *(parameter.grad for parameter in model.parameters())]

    for plain, tapped in zip(run(False), run(True), strict=True):
        assert torch.equal(plain, tapped)


def test_quantised_policies_are_read_as_they_compute():
    """Linear layers of 8-bit weights, swapped in as quantisers do: the map of their own eager forward."""
    ids, mask = batch(left_pads=(0, 5))
    quantised = []
    for implementation in ("sdpa", "eager"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model = tiny_model("qwen3", attention=implementation)
            quantised.append(torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}))
    model, eager = quantised
    assert "DynamicQuantizedLinear" in str(model)
    with torch.no_grad(), AttentionTap(model, "all").open(mask) as capture:
        model(input_ids=ids, attention_mask=mask)
        attentions = eager(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    expected = torch.stack(attentions).mean((0, 2)) * mask[:, :, None] * mask[:, None, :]
    torch.testing.assert_close(capture.capacity, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(expected, eager_mean("qwen3", ids, mask, range(3)).float(), atol=1e-4)


def take(mask, *, window=None, length=24):
    """Feeds one layer of two sequences to a capture, with a mask and a window of its own."""
    query = torch.randn(2, 4, length, 8, generator=torch.Generator().manual_seed(0))
    capture = Capture([0], torch.ones(2, length), MeanMap())
    capture.take(0, query, query[:, :2], 0.3, mask, window=window)
    return capture.capacity


def test_a_window_that_its_mask_does_not_keep_is_refused():
    causal = torch.ones(2, 1, 24, 24, dtype=torch.bool).tril()
    windowed = causal.triu(-5)
    assert (take(windowed, window=6) == take(windowed)).all()
    assert (take(None, window=24) == take(None)).all()
    for mask in (None, causal):
        with pytest.raises(CreditError, match="layer 0 has a sliding window, but its mask shows"):
            take(mask, window=6)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            torch.ones(2, 1, 20, 24, dtype=torch.bool),
            "layer 0 has a mask of shape .2, 1, 20, 24. for 2 sequences of 24",
        ),
        (torch.ones(3, 1, 24, 24, dtype=torch.bool), "a mask of shape .3, 1, 24, 24."),
        (torch.ones(2, 4, 24, 24, dtype=torch.bool), "one for all heads"),
        (torch.zeros(2, 1, 24, 24), "additive torch.float32 attention mask"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, message):
    with pytest.raises(CreditError, match=message):
        take(mask)


def test_layers_on_several_devices_are_refused():
    query = torch.randn(1, 2, 6, 8)
    capture = Capture([0, 1], torch.ones(1, 6), MeanMap())
    capture.take(0, query, query, 0.3, None)
    with pytest.raises(CreditError, match="layer 1 runs on meta, earlier ones on cpu"):
        capture.take(1, query.to("meta"), query.to("meta"), 0.3, None)


def test_one_mask_for_all_sequences_is_each_one_s():
    mask = torch.ones(1, 1, 24, 24, dtype=torch.bool).tril()
    mask[..., 3:, 2] = False
    assert torch.equal(take(mask), take(mask.expand(2, 1, 24, 24).contiguous()))


def test_an_attention_mask_of_another_length_is_refused():
    ids, mask = batch(left_pads=(0, 5))
    model = tiny_model("qwen3")
    with (
        pytest.raises(CreditError, match=r"sequences of shape \(2, 20\), but a forward brought 2 x 24"),
        AttentionTap(model).open(mask[:, :20]),
    ):
        model(input_ids=ids, attention_mask=mask)


@pytest.mark.parametrize("option", ["softcap", "s_aux", "position_bias"])
def test_scores_with_something_added_are_refused(option):
    ids, mask = batch(left_pads=(0,))
    model = tiny_model("qwen3")
    layer, query = model.model.layers[1].self_attn, torch.zeros(1, 2, 4, 8)
    with AttentionTap(model).open(mask), pytest.raises(CreditError, match="which the tap does not read yet"):
        attention._tapped_attention(layer, query, query, query, None, **{option: torch.zeros(1, 2, 4, 4)})


def test_one_token():
    model = tiny_model("qwen3")
    with torch.no_grad(), AttentionTap(model).open(torch.ones(1, 1)) as capture:
        model(input_ids=torch.tensor([[3]]), attention_mask=torch.ones(1, 1))
    assert capture.capacity.tolist() == [[[1.0]]]


@pytest.mark.parametrize(
    ("layers", "total", "expected"),
    [
        ("middle", 36, list(range(12, 24))),
        ("15-25", 36, list(range(15, 25))),
        ("middle", 30, list(range(10, 20))),
        ("middle", 2, [0]),
        ("middle", 1, [0]),
        ("late", 2, [1]),
        ("early", 3, [0]),
        ("late", 1, [0]),
        ("all", 2, [0, 1]),
        ([2, 0, 2], 3, [0, 2]),
        ("last", 4, [3]),
        ("middle/5", 36, [12, 15, 18, 20, 23]),
        ("15-25/5", 36, [15, 17, 20, 22, 24]),
        ("middle/5", 6, [2, 3]),
        ("all/1", 4, [0]),
    ],
)
def test_traced_layers(layers, total, expected):
    assert traced_layers(layers, total) == expected


@pytest.mark.parametrize("layers", ["center", "3-2", "0-99", "-1-2", "all/0", "all/x", "all/", [], [3], [-1]])
def test_impossible_layers_are_named(layers):
    with pytest.raises(CreditError, match="layers"):
        traced_layers(layers, 3)


def test_what_cannot_be_tapped_is_refused_with_the_way_out():
    with pytest.raises(CreditError, match="attn_implementation='sdpa'"):
        AttentionTap(tiny_model("qwen3", attention="eager"))
    capped = tiny_model(
        "gemma2", attention="eager"
    )  # newer versions of transformers build it in no other way
    capped.config._attn_implementation = "sdpa"
    with pytest.raises(CreditError, match="soft-cap|has no sdpa attention"):
        AttentionTap(capped)
    with pytest.raises(CreditError, match="no transformers model"):
        AttentionTap(torch.nn.Linear(2, 2))


def test_a_tap_without_its_forward_says_so():
    model = tiny_model("qwen3")
    with AttentionTap(model).open(torch.ones(1, 4)) as capture:
        pass
    with pytest.raises(CreditError, match="never seen"):
        _ = capture.capacity


def test_generation_with_a_cache_is_refused_inside_and_untouched_outside():
    model = tiny_model("qwen3")
    ids, mask = batch(length=6, left_pads=(0,))
    tap = AttentionTap(model)
    with pytest.raises(CreditError, match="without cache"), tap.open(mask):
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, do_sample=False)
    assert model.config._attn_implementation == "sdpa"
    assert model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, do_sample=False).shape[1] <= 9


def test_a_model_compiled_while_its_tap_is_open_is_never_seen():
    """The capture says so, and the compiled code is that of the untapped model."""
    ids, mask = batch(left_pads=(0,))
    model = tiny_model("qwen3")
    tap = AttentionTap(model)
    with torch.no_grad(), tap.open(mask) as capture:
        compiled = torch.compile(model, backend="eager", fullgraph=False)
        logits = compiled(input_ids=ids, attention_mask=mask, use_cache=False).logits
    with pytest.raises(CreditError, match="never seen by the tap: .* without torch.compile"):
        _ = capture.capacity
    assert torch.allclose(
        logits, model(input_ids=ids, attention_mask=mask, use_cache=False).logits, atol=1e-5
    )


def test_the_tap_leaves_no_trace_in_a_saved_configuration(tmp_path):
    model = tiny_model("qwen3")
    with AttentionTap(model).open(torch.ones(1, 4)):
        model.save_pretrained(tmp_path)
    assert "flowtracer" not in (tmp_path / "config.json").read_text()
