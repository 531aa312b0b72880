"""Protects the sizes that plans are made of: they are those of the real architectures."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from harness import ExperimentError, experiment, plan, shapes

#: Published parameter counts, in billions: Qwen3's technical report, Meta's model cards, SmolLM2's.
PUBLISHED = {
    "Qwen/Qwen3-0.6B-Base": 0.6, "Qwen/Qwen3-1.7B-Base": 1.7, "Qwen/Qwen3-4B-Base": 4.0, "Qwen/Qwen3-8B-Base": 8.2,
    "meta-llama/Llama-3.2-3B": 3.21, "meta-llama/Llama-3.1-8B": 8.03, "smollm2-135m-instruct": 0.135,
}  # fmt: skip


def config_of(shape, **changes):
    kind = Qwen3Config if shape.normalised else LlamaConfig
    return kind(
        num_hidden_layers=shape.layers,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        head_dim=shape.head_width,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        **changes,
    )


def model_of(shape, **changes):
    kind = Qwen3ForCausalLM if shape.normalised else LlamaForCausalLM
    return kind(config_of(shape, **changes))


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_shapes_have_the_published_number_of_parameters(name):
    shape = shapes.SHAPES[name]
    with torch.device("meta"):
        model = model_of(shape)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.parameters / 1e9 == pytest.approx(PUBLISHED[name], rel=0.02)


def test_every_policy_of_an_experiment_has_a_shape():
    for name in experiment.names():
        shapes.shape_of(experiment.load(name).policy.name)


def test_shape_and_adapters_of_a_shipped_policy():
    from peft import get_peft_model

    from harness import policy
    from harness.runs.settings import adapters_of

    model = policy.load_policy("decision").model
    shape = shapes.shape_of("decision")
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    training = experiment.load("decision").training
    object.__setattr__(training, "lora_rank", 3)
    adapted = get_peft_model(model, adapters_of(training))
    assert shape.adapters(3) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_an_unknown_policy_needs_its_configuration(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ExperimentError, match="nobody/nothing cannot be planned without its config.json"
    ) as error:
        shapes.shape_of("nobody/nothing")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("Tesla T4", "T4"),
        ("NVIDIA L40", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA T400 4GB", None),
    ],
)
def test_a_gpu_is_known_by_whole_words_of_its_name(name, part):
    assert shapes.rates_of(name) == (None if part is None else shapes.RATES[part])


def test_the_rates_of_an_unknown_gpu_are_said_to_be_assumed(monkeypatch):
    """Hours that rest on nothing must not look like the others."""
    from types import SimpleNamespace

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=48e9))
    notes = {}
    for name in ("NVIDIA L40", "NVIDIA L40S"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        device = shapes.here()
        assert device.assumed == (name == "NVIDIA L40") and device.memory == 48e9
        notes[name] = plan.sheets(plan.plan(experiment.load("decision"), device))[-1].note
    assert "The speed of NVIDIA L40 is not known: 25% of that of an H100" in notes["NVIDIA L40"]
    assert "not known" not in notes["NVIDIA L40S"]
