"""Protects the sizes that plans are made of: they are those of the real architectures."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from harness import ExperimentError, experiment, shapes

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
