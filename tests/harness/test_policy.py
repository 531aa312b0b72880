"""Protects what a model reads: exact prompts and decoding, special tokens, loud errors for missing models."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from harness import ExperimentError, policy

ALPHABET = "abc 12+=?;#\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 with a character tokenizer and the sampling options that published Qwen3 models carry."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = policy.character_tokenizer(ALPHABET)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=64,
        pad_token_id=0, eos_token_id=1, bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=True, top_k=20, temperature=0.6, eos_token_id=[1, 4])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_character_tokenizer_survives_saving_and_gives_back_the_text(tmp_path: Path) -> None:
    policy.character_tokenizer(ALPHABET).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = " a+b  =\n?1 ;#"
    ids = loaded(text).input_ids
    assert len(ids) == len(text) and loaded.decode(ids) == text
    assert (loaded.pad_token_id, loaded.eos_token_id, loaded.unk_token_id) == (0, 1, None)
    assert len(loaded) == len(ALPHABET) + 2


def test_offsets_are_one_a_character() -> None:
    encoded = policy.character_tokenizer(ALPHABET)("1+2=\n", return_offsets_mapping=True)
    assert encoded["offset_mapping"] == [(index, index + 1) for index in range(5)]


@pytest.mark.parametrize("alphabet", ["", "aba"])
def test_an_ambiguous_alphabet_is_refused(alphabet: str) -> None:
    with pytest.raises(ValueError, match="alphabet"):
        policy.character_tokenizer(alphabet)


def test_unknown_characters_are_named_and_not_dropped(folder: Path) -> None:
    with pytest.raises(ExperimentError, match="'Zé'") as error:
        policy.load_policy(str(folder)).encode("aZé?")
    assert "\n" not in str(error.value)


def test_an_empty_prompt_is_refused(folder: Path) -> None:
    with pytest.raises(ExperimentError, match="without any token"):
        policy.load_policy(str(folder)).encode("")


def test_published_sampling_options_are_dropped_and_end_tokens_kept(folder: Path) -> None:
    loaded = policy.load_policy(str(folder))
    assert loaded.model.generation_config.do_sample is not True
    assert loaded.model.generation_config.top_k != 20
    assert loaded.model.generation_config.temperature != 0.6
    assert loaded.model.generation_config.eos_token_id == [1, 4]
    assert loaded.model.generation_config.pad_token_id == loaded.model.config.pad_token_id == 0
    assert not loaded.model.training and not loaded.chat
    assert loaded.model.get_input_embeddings().weight is loaded.model.get_output_embeddings().weight


def test_chat_renders_the_template_once(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for m in messages %}"
        "{{ '1=' if m['role'] == 'user' else '2=' }}{{ m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'a=' }}{% endif %}"
    )
    loaded = policy.load_policy(str(folder))
    chatty = policy.Policy(loaded.model, tokenizer, chat=True, system="cab")
    assert chatty.render("abc?") == "2=cab\n1=abc?\na="
    assert tokenizer.decode(chatty.encode("abc?")) == chatty.render("abc?")
    # The instruction that the system message is stands there alone.
    assert chatty.render("abc? 1\ncab") == "2=cab\n1=abc? 1\na="
    assert policy.Policy(loaded.model, tokenizer).render("abc?") == "abc?"


def test_what_closes_a_turn_ends_a_response(folder: Path, tmp_path: Path) -> None:
    """A base model's own end token is another; its chat responses would all run on to the last token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["#"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '#\n' }}{% endfor %}"
    policy.load_policy(str(folder)).model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    closing = tokenizer.convert_tokens_to_ids("#")
    assert policy.load_policy(str(tmp_path)).model.generation_config.eos_token_id == [1, 4, closing]
    assert policy.load_policy(str(tmp_path), chat=False).model.generation_config.eos_token_id == [1, 4]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("no-such-policy", {}, "neither a shipped one"),
        ("tiny", {"dtype": "float8"}, "unknown dtype 'float8'"),
        ("tiny", {"chat": True}, "no chat template"),
        ("tiny", {"system": "You are"}, "system"),
        ("tiny", {"attention": "no_such_attention"}, "no_such_attention"),
        ("empty", {}, "config.json"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, tmp_path: Path, name: str, options: dict, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = {"tiny": str(folder), "empty": str(tmp_path)}.get(name, name)
    with pytest.raises(ExperimentError, match=said) as error:
        policy.load_policy(name, **options)
    assert "\n" not in str(error.value)


def test_weights_of_another_architecture_are_refused(folder: Path, tmp_path: Path) -> None:
    """transformers fills what is missing at random, and only warns."""
    policy.load_policy(str(folder)).model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    deeper = {**config, "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    for changed, said in (
        (deeper, "lack model.layers.1"),
        ({**config, "hidden_size": 32}, "cannot be loaded"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(ExperimentError, match=said) as error:
            policy.load_policy(str(tmp_path))
        assert "\n" not in str(error.value)


def test_a_shipped_policy_without_weights_says_how_to_make_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "FOLDER", tmp_path)
    with pytest.raises(ExperimentError, match="nox -s pretrain"):
        policy.load_policy("decision")


def test_dtype_is_taken(folder: Path) -> None:
    assert policy.load_policy(str(folder), dtype="bfloat16").model.dtype is torch.bfloat16


def test_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert policy.cache_folder() == tmp_path / "flowtracer"


def test_smollm2_comes_from_the_hub_without_its_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert policy.source_of(policy.SMOLLM2) == policy.SMOLLM2_HUB


def test_a_conversion_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that dies leaves nothing that a later load takes for the model; one that lasts is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0")

    def full_disk(package: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(policy, "_convert", full_disk)
    with pytest.raises(ExperimentError, match="No space left on device.*XDG_CACHE_HOME"):
        policy._converted(Path("wheel"))
    assert list((tmp_path / "flowtracer").iterdir()) == []

    def whole(package: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_text("whole")

    monkeypatch.setattr(policy, "_convert", whole)
    converted = policy._converted(Path("wheel"))
    monkeypatch.setattr(policy, "_convert", full_disk)
    assert policy._converted(Path("wheel")) == converted
    assert (converted / "model.safetensors").read_text() == "whole"
