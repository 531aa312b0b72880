"""Protects the tap: captured attention is the model's own, outputs are untouched, pads are exactly 0."""

import re
import warnings
from pathlib import Path

import pytest
import torch

import flowtracer.attention
from flowtracer import AttentionTap, CreditError, capacity_from_qk, solve_flow, tap_multihead, traced_layers
from flowtracer.attention import Capture, HeadReading, MeanMap, Rollout
from tests.flowtracer.conftest import LargestTensors, tiny_model

ARCHITECTURES = ["qwen3", "llama", "mistral", "gpt_neox", "gemma"]


def batch(length=24, left_pads=(0, 5, 11)):
    """Ids and mask (B, T), left-padded by different amounts."""
    ids = torch.randint(2, 32, (len(left_pads), length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row, pads in enumerate(left_pads):
        ids[row, :pads], mask[row, :pads] = 0, 0
    return ids, mask


def eager_mean(architecture, ids, mask, layers, **changes):
    """The mean over heads and layers of what an eager forward with output_attentions returns; pads zeroed."""
    eager = tiny_model(architecture, attention="eager", **changes)
    with torch.no_grad():
        attentions = eager(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    mean = torch.stack([attentions[layer] for layer in layers]).double().mean((0, 2))
    return mean * mask[:, :, None] * mask[:, None, :]


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


@pytest.mark.parametrize("architecture", sorted(TESTED))
def test_architectures(architecture):
    """Captured equals eager, with padding, over all layers; what is not in this table may be refused or untested."""
    ids, mask = batch(left_pads=(0, 5))
    changes = TESTED[architecture]
    model = tiny_model(architecture, **changes)
    with torch.no_grad(), AttentionTap(model, "all").open(mask) as capture:
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    expected = eager_mean(architecture, ids, mask, range(3), **changes)
    torch.testing.assert_close(capture.capacity.double(), expected, rtol=0, atol=2e-6)
    # Against a test that uniform attention would pass.
    assert (expected.amax(-1)[0] * torch.arange(1, 25))[12:].mean() > 1.3


def test_the_table_of_architectures_lists_what_is_tested():
    table = Path(__file__).parents[2].joinpath("docs/architectures.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:dense|mixture of experts) \| (.*) \|$", table, re.MULTILINE)
    assert sorted(", ".join(rows).split(", ")) == sorted({*TESTED, *ARCHITECTURES})


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("gpt_oss", "has no sdpa attention"),
        ("gptj", "attention"),
        ("bloom", "attention"),
        ("qwen3_next", "trace only layers that use attention"),
        ("doge", "additive torch.float32 attention mask"),
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


def encoder(**changes):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(
        32, 4, 48, dropout=0.0, **{"batch_first": True, "norm_first": True, **changes}
    )
    model = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    for part in model.modules():
        if isinstance(part, torch.nn.MultiheadAttention):
            part.in_proj_weight.data.mul_(4.0)
    return model


@pytest.mark.parametrize("batch_first", [True, False])
def test_plain_pytorch_encoders_are_traced(batch_first):
    """Against the weights that MultiheadAttention itself returns, with padding and a causal mask."""
    model = encoder(batch_first=batch_first)
    states = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(1))
    token = torch.ones(2, 12)
    token[1, -3:] = 0
    causal = torch.nn.Transformer.generate_square_subsequent_mask(12)
    given = states if batch_first else states.transpose(0, 1)
    # PyTorch wants both masks of one kind, and the tap reads either.
    hidden = causal == float("-inf")
    pads = token == 0
    seen = []

    def keep(module, arguments, keywords, output):
        seen.append(torch.nn.functional.multi_head_attention_forward(
            *(part.transpose(0, 1) if batch_first else part for part in arguments), 32, 4, module.in_proj_weight,
            module.in_proj_bias, None, None, False, 0.0, module.out_proj.weight, module.out_proj.bias,
            attn_mask=keywords["attn_mask"], key_padding_mask=keywords["key_padding_mask"])[1])  # fmt: skip

    hooks = [
        part.register_forward_hook(keep, with_kwargs=True)
        for part in model.modules()
        if isinstance(part, torch.nn.MultiheadAttention)
    ]
    with torch.no_grad(), tap_multihead(model, token, "all") as capture:
        tapped = model(given, mask=hidden, src_key_padding_mask=pads)
    for hook in hooks:
        hook.remove()
    expected = torch.stack(seen).mean(0) * token[:, :, None] * token[:, None, :]
    torch.testing.assert_close(capture.capacity, expected, rtol=0, atol=2e-6)
    with torch.no_grad():
        plain = model(given, mask=hidden, src_key_padding_mask=pads)
    real = token.bool() if batch_first else token.bool().T
    torch.testing.assert_close(tapped[real], plain[real], rtol=1e-4, atol=1e-5)
    with torch.no_grad(), tap_multihead(model, token, "all") as again:
        model(given, mask=causal, src_key_padding_mask=torch.zeros(2, 12).masked_fill(pads, float("-inf")))
    torch.testing.assert_close(capture.capacity, again.capacity)


def test_plain_pytorch_that_cannot_be_traced_is_refused():
    states, token = torch.randn(2, 12, 32), torch.ones(2, 12)
    model = encoder()
    with pytest.raises(CreditError, match="only causal models"), tap_multihead(model, token):
        model(states)
    biased = torch.nn.Transformer.generate_square_subsequent_mask(12)
    biased[3, 1] = 0.5
    with pytest.raises(CreditError, match="attn_mask adds to the scores"), tap_multihead(model, token):
        model(states, mask=biased)
    with pytest.raises(CreditError, match="holds no torch.nn.MultiheadAttention"):
        tap_multihead(torch.nn.Linear(2, 2), token).__enter__()
    attention = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    with pytest.raises(CreditError, match="cross-attention"), tap_multihead(attention, token):
        attention(states, states + 1, states)


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


def test_tiles_do_not_change_the_map(monkeypatch):
    """Row by row and three queries at a time: the same map as in one piece."""
    ids, mask = batch()
    model = tiny_model("llama")
    maps = []
    for elements in (16 * 1024 * 1024, 4 * 3 * 24):
        monkeypatch.setattr(flowtracer.attention, "TILE_ELEMENTS", elements)
        with torch.no_grad(), AttentionTap(model, "all").open(mask) as capture:
            model(input_ids=ids, attention_mask=mask)
        maps.append(capture.capacity)
    torch.testing.assert_close(*maps, rtol=0, atol=1e-6)


def test_quantised_policies_are_read_as_they_compute():
    """Linear layers of 8-bit weights, swapped in as quantisers do: the map of their own eager forward."""
    ids, mask = batch(left_pads=(0, 5))
    quantised = []
    for attention in ("sdpa", "eager"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model = tiny_model("qwen3", attention=attention)
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
    query = torch.zeros(1, 2, 4, 8)
    with pytest.raises(CreditError, match="which the tap does not read yet"):
        flowtracer.attention._tapped_attention(
            torch.nn.Identity(), query, query, query, None, **{option: 1.0}
        )


def test_a_map_that_does_not_fit_in_memory_is_refused_before_it_is_made():
    """A million tokens are 4 TB: no machine is asked for them, and the line says what to do."""
    token = torch.ones(1, 2**20, dtype=torch.bool)
    with pytest.raises(
        CreditError, match="1 x 1048576 tokens takes 4398.0 GB, .* dense_tokens below 1048576"
    ):
        MeanMap(dense_tokens=2**20).begin(token, layers=1)
    MeanMap().begin(token, layers=1)


def test_scores_are_held_a_few_rows_at_a_time():
    """The map and 4 MB, however many heads there are: not a map a head."""
    query = torch.randn(1, 16, 1024, 8)
    with LargestTensors() as made:
        capacity_from_qk(query, query[:, :4], scale=0.3)
    assert made.sizes[0] == 4 * 1024 * 1024 and made.sizes[1] <= 2 * 1024 * 1024


def eager_layers(ids, mask):
    """Attentions of all layers, (L, B, H, T, T) float64; pads zeroed."""
    eager = tiny_model("llama", attention="eager")
    with torch.no_grad():
        attentions = eager(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    return torch.stack(attentions).double() * (mask[:, :, None] * mask[:, None, :]).unsqueeze(1)


def padded_on_both_sides():
    ids, mask = batch(left_pads=(0, 5, 11))
    ids[1, -4:], mask[1, -4:] = 0, 0
    return ids, mask


@pytest.mark.parametrize("elements", [16 * 1024 * 1024, 4 * 5 * 24])
def test_rollout_is_the_product_over_layers(monkeypatch, elements):
    monkeypatch.setattr(flowtracer.attention, "TILE_ELEMENTS", elements)
    ids, mask = padded_on_both_sides()
    model = tiny_model("llama")
    with torch.no_grad(), AttentionTap(model, "all").open(mask, Rollout()) as capture:
        model(input_ids=ids, attention_mask=mask)
    expected = torch.eye(24, dtype=torch.float64).expand(3, 24, 24)
    for layer in eager_layers(ids, mask).mean(2):
        expected = (0.5 * layer + 0.5 * torch.eye(24)) @ expected
    expected = expected * mask[:, :, None] * mask[:, None, :]
    torch.testing.assert_close(capture.fields["rollout"].double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("elements", [16 * 1024 * 1024, 4 * 5 * 24])
def test_head_vectors_follow_their_definitions(monkeypatch, elements):
    """Against loops over an eager model's per-head maps: tiles, grouped heads and pads on both sides."""
    monkeypatch.setattr(flowtracer.attention, "TILE_ELEMENTS", elements)
    ids, mask = padded_on_both_sides()
    model = tiny_model("llama")
    with (
        torch.no_grad(),
        AttentionTap(model, "all").open(mask, HeadReading(clip=4, near=2, far=6)) as capture,
    ):
        model(input_ids=ids, attention_mask=mask)
    got = capture.fields["head_vectors"]
    maps = eager_layers(ids, mask).transpose(0, 1).flatten(1, 2)
    reach, distance, influence = (torch.zeros(3, 12, 24, dtype=torch.float64) for _ in range(3))
    for row in range(3):
        own = mask[row].nonzero().flatten().tolist()
        for t in own:
            for s in own:
                if s <= t:
                    reach[row, :, t] += maps[row, :, t, s] * min(t - s, 4)
                    distance[row, :, t] += maps[row, :, t, s] * (t - s)
            future = [k for k in own if t + 2 <= k <= t + 6]
            if future:
                influence[row, :, t] = maps[row, :, future, t].mean(1)
    for name, expected in (("reach", reach), ("distance", distance), ("influence", influence)):
        torch.testing.assert_close(getattr(got, name).double(), expected, rtol=0, atol=2e-5, msg=name)


def test_capacity_from_qk_is_causal_softmax():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 4, 9, 8, generator=generator), torch.randn(2, 2, 9, 8, generator=generator)
    scores = query.double() @ key.double().repeat_interleave(2, 1).transpose(-1, -2) * 0.3
    hidden = torch.ones(9, 9, dtype=torch.bool).triu(1)
    expected = scores.masked_fill(hidden, float("-inf")).softmax(-1).mean(1)
    got = capacity_from_qk(query, key, scale=0.3)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-6)


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
    with pytest.raises(CreditError, match="soft-cap"):
        AttentionTap(tiny_model("gemma2"))
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


def test_the_tap_leaves_no_trace_in_a_saved_configuration(tmp_path):
    model = tiny_model("qwen3")
    with AttentionTap(model).open(torch.ones(1, 4)):
        model.save_pretrained(tmp_path)
    assert "flowtracer" not in (tmp_path / "config.json").read_text()
