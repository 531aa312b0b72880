"""Protects a trace: it reads what the tap reads, refuses what it cannot read, and weighs as the methods do."""

import pytest
import torch

from flowtracer import AttentionTap, CreditError, credit, trace
from flowtracer.credit import CreditContext
from flowtracer.tracing import Trace
from tests.flowtracer.conftest import tiny_model


class AfterHash:
    """An answer behind the last `#`."""

    def extract(self, text):
        at = text.rfind("#")
        return None if at < 0 else (at + 1, len(text))

    def decisive(self, text):
        return [(0, 1)]


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen3", layers=6)


def test_trace_reads_what_the_tap_reads_and_leaves_the_model_alone(model, tokenizer):
    text = "a3b4?", "c5;d6=7#12"
    ids = [tokenizer(part).input_ids for part in text]
    model.train()
    got = trace(model, tokenizer, *text, task=AfterHash())
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    model.eval()
    batch = torch.tensor([ids[0] + ids[1]])
    tap = AttentionTap(model, "middle")
    with torch.no_grad(), tap.open(torch.ones_like(batch)) as capture:
        model(batch)
    assert torch.equal(got.capacity, capture.capacity[0])
    assert got.layers == [2, 3] and got.prompt_length == 5
    assert got.tokens == list("".join(text)) and got.answer_text == "12"
    assert got.answer.nonzero().flatten().tolist() == [13, 14]
    assert got.decisive.nonzero().flatten().tolist() == [5]
    assert torch.equal(got.throughput, 2 * got.flow.flow)
    same = trace(model, tokenizer, *ids, task=AfterHash())
    assert torch.equal(same.throughput, got.throughput)


def test_trace_stops_behind_the_last_traced_layer(model, tokenizer):
    seen = []
    handles = [
        layer.register_forward_pre_hook(lambda *_, index=index: seen.append(index))
        for index, layer in enumerate(model.model.layers)
    ]
    trace(model, tokenizer, "ab", "c#1", layers=[1, 3], task=AfterHash())
    for handle in handles:
        handle.remove()
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("prompt", "response", "message"),
    [
        ("", "c#1", "the prompt is empty"),
        ("ab", [], "the response is empty"),
        ("ab", "cde", r"no answer found in the response, which ends 'cde'"),
        ("ab", "cde#", "the answer of the response, which ends 'cde#', is empty"),
        ("ab", "c#x", "the tokenizer cannot read the response 'c#x'"),
        ([3, 32], "c#1", r"token ids from \d+ to 32 do not fit a vocabulary of 32"),
        ([3] * 256, "c#1", "259 tokens; the model reads at most 256"),
    ],
)
def test_what_cannot_be_traced_is_refused_in_one_line(model, tokenizer, prompt, response, message):
    with pytest.raises(CreditError, match=message) as caught:
        trace(model, tokenizer, prompt, response, task=AfterHash())
    assert "\n" not in str(caught.value)


def test_an_answer_that_nothing_reaches_is_refused():
    with pytest.raises(
        CreditError, match="nothing of the prompt reaches the answer 'd' through layers 2-3, 7"
    ):
        Trace([0] * 4, list("abcd"), 2, torch.zeros(4, 4), torch.tensor([False] * 3 + [True]), [2, 3, 7])


def test_tokens_are_safe_to_display(byte_tokenizer):
    model = tiny_model("llama", vocab_size=257)
    response = "é\x1b[2J\u202e\u2028#1"
    ids = byte_tokenizer(response).input_ids
    got = trace(model, byte_tokenizer, "q", [*ids, 256], task=AfterHash())
    shown = got.tokens[1:]
    assert shown[:2] == ["é", ""]
    assert "".join(shown) == "é\u241b[2J\u27e8U+202E\u27e9\u27e8U+2028\u27e9#1<|end|>"
    assert "".join(got.pieces) == "q" + response
    assert got.answer_text == "1"


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.4, 0.55, 1.0])
def test_top_is_the_choice_of_credit_flow(story, ratio):
    length = len(story.tokens)
    context = CreditContext(
        token_ids=torch.zeros(1, length, dtype=torch.long),
        prompt=story.prompt.unsqueeze(0),
        response=story.response.unsqueeze(0),
        source=story.prompt.unsqueeze(0),
        answer=story.answer.unsqueeze(0),
        capacity=story.capacity.clone().unsqueeze(0),
    )
    weights = credit.get("flow", ratio=ratio)(context)[0]
    assert story.top(ratio) == (weights == 1.5).nonzero().flatten().tolist()
    assert torch.equal(story.weights("flow", ratio=ratio), weights)


def test_weights_of_other_methods_and_refusals(story):
    assert torch.equal(story.weights("uniform"), torch.ones(len(story.tokens)))
    assert story.weights("constant", weight=1.3)[story.response].unique().tolist() == pytest.approx([1.3])
    before = torch.get_rng_state()
    assert torch.equal(story.weights("random"), story.weights("random"))
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(CreditError, match="unknown credit method 'flw'"):
        story.weights("flw")
    with pytest.raises(CreditError, match="credit oracle needs decisive, which this trace has not"):
        story.weights("oracle")
    with pytest.raises(CreditError, match="option 'layers' was fixed when the response was traced"):
        story.weights("flow", layers="all")
    with pytest.raises(CreditError, match="needs the advantages .* no advantages"):
        story.weights("flow", sign="positive")
