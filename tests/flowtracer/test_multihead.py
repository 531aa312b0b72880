"""Protects the tap for plain PyTorch: the map of causal encoders built from torch.nn.MultiheadAttention."""

import textwrap

import pytest
import torch

from flowtracer import CreditError, multihead, tap_multihead


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


def test_the_example_of_the_documentation_runs():
    """The code in the module's docstring, as it stands: a unit of flow arrives at the answer of each sequence."""
    lines = multihead.__doc__.partition("positions:")[2].splitlines()
    code = textwrap.dedent("\n".join(lines))
    names = {}
    torch.manual_seed(0)
    exec(compile(code, "multihead.py", "exec"), names)
    throughput = names["throughput"]
    assert throughput.shape == (2, 12)
    # All of the flow enters the answer and ends there: twice the share that passes it.
    assert throughput[:, 11].tolist() == pytest.approx([2.0, 2.0], abs=1e-5)
    assert (throughput[:, 4:11] > 0).all()
