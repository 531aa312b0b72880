"""Protects the map from characters to sampled tokens: an answer's span must cover exactly the tokens that wrote it."""

import random
import time

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from flowtracer.spans import Boxed, _incremental_spans, _joined_spans, decode, tokens_in

TEXTS = [
    "The answer is 42. #### 42",
    "naïve café — ∑ ≤ ½, Ångström, 答えは四十二です",
    "👩‍👩‍👧 family 🎉🎉 done 🏳️‍🌈!",
    "zero\u200bwidth\ttab\r\nlines\n\n  indented",
    "a" * 40 + "\n" * 5 + "  ",
]


@pytest.fixture(scope="module")
def byte_level():
    """A byte-level BPE with few merges, so that emojis and accented letters are split over several tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["the answer is the family answer", "café naïve"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )


@pytest.fixture(scope="module")
def leading_space():
    """Like sentencepiece: a word's blank belongs to its token, and decoding strips the first one of a text."""
    pieces = ["<unk>", "<s>", "</s>", "▁the", "▁answer", "▁is", "▁4", "2", ".", "▁", "▁a", "b"]
    raw = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="<unk>"))
    raw.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def check_tiling(text, spans):
    """What every caller relies on: sorted, inside the text, no gap; equal spans only for parts of a character."""
    position = 0
    for index, (start, end) in enumerate(spans):
        assert start <= end <= len(text)
        repeats = index > 0 and spans[index - 1] == (start, end)
        assert start == position or repeats
        position = max(position, end)
    assert position == len(text)


def test_one_character_a_token(tokenizer):
    ids = tokenizer("ab#c", add_special_tokens=False).input_ids
    text, spans = decode(tokenizer, ids)
    assert (text, spans) == ("ab#c", [(0, 1), (1, 2), (2, 3), (3, 4)])


def test_empty_response(tokenizer):
    assert decode(tokenizer, []) == ("", [])
    assert tokens_in([], [(0, 3)]) == []


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_tokens_tile_the_text(byte_level, text):
    ids = byte_level(text, add_special_tokens=False).input_ids
    decoded, spans = decode(byte_level, ids)
    assert decoded == text and len(spans) == len(ids)
    check_tiling(text, spans)
    # Every token's bytes lie inside the characters that it is said to have written.
    written = [len(byte_level.convert_ids_to_tokens(token)) for token in ids]
    offset = 0
    for (start, end), length in zip(spans, written, strict=True):
        assert len(text[:start].encode()) <= offset
        offset += length
        assert offset <= len(text[:end].encode())


def test_every_byte_of_a_split_character_belongs_to_it(byte_level):
    text = "x 🎉 y"
    ids = byte_level(text, add_special_tokens=False).input_ids
    _, spans = decode(byte_level, ids)
    emoji = tokens_in(spans, [(2, 3)])
    assert len(emoji) >= 3 and [spans[token] for token in emoji[1:]] == [(2, 3)] * (len(emoji) - 1)


def test_a_character_that_is_cut_off_at_the_end(byte_level):
    """A response stopped in the middle of an emoji: the text ends in U+FFFD, and its bytes have a span."""
    ids = byte_level("a 🎉", add_special_tokens=False).input_ids[:-1]
    text, spans = decode(byte_level, ids)
    assert text.endswith("\ufffd") and len(spans) == len(ids)
    check_tiling(text, spans)


@pytest.mark.parametrize("seed", range(20))
def test_joined_runs_equal_decoded_prefixes(byte_level, seed):
    """The linear way against the definition, on random tokens: mostly broken characters and special tokens."""
    source = random.Random(seed)
    ids = [source.randrange(len(byte_level)) for _ in range(30)]
    ids += byte_level(source.choice(TEXTS), add_special_tokens=False).input_ids
    text = byte_level.decode(ids, skip_special_tokens=True)
    pieces = [byte_level.decode([token], skip_special_tokens=True) for token in ids]
    joined = _joined_spans(byte_level, ids, pieces, text)
    if joined is not None:
        assert joined == _incremental_spans(byte_level, ids, text)
    check_tiling(*decode(byte_level, ids))


def test_one_emoji_does_not_make_a_long_response_slow(byte_level):
    """Prefix by prefix, 6,000 tokens take tens of seconds: as many decodings as tokens, each of the whole prefix."""
    ids = byte_level("the answer 🎉 " * 500, add_special_tokens=False).input_ids
    begin = time.perf_counter()
    text, spans = decode(byte_level, ids)
    assert time.perf_counter() - begin < 5
    check_tiling(text, spans)


def test_special_tokens_have_empty_spans(byte_level):
    eos, pad = byte_level.eos_token_id, byte_level.pad_token_id
    inner = byte_level("the 🎉", add_special_tokens=False).input_ids
    text, spans = decode(byte_level, [pad, *inner, eos, eos])
    assert text == "the 🎉"
    check_tiling(text, spans)
    assert spans[0] == (0, 0) and all(start == end for start, end in spans[-2:])
    assert 0 not in tokens_in(spans, [(0, len(text))])


def test_leading_blank_is_stripped_once(leading_space):
    """Decoding alone strips each token's blank, decoding the text only the first: single tokens do not concatenate."""
    ids = [leading_space.convert_tokens_to_ids(piece) for piece in ("▁the", "▁answer", "▁is", "▁4", "2", ".")]
    text, spans = decode(leading_space, ids)
    assert text == "the answer is 42."
    check_tiling(text, spans)
    assert [text[start:end].strip() for start, end in spans] == ["the", "answer", "is", "4", "2", "."]
    assert tokens_in(spans, [(14, 16)]) == [3, 4]
    again, with_end = decode(leading_space, [1, *ids, 2])
    assert again == text and [text[a:b].strip() for a, b in with_end] == [
        "",
        "the",
        "answer",
        "is",
        "4",
        "2",
        ".",
        "",
    ]


def test_an_answer_that_overlaps_half_a_token_takes_the_whole_token(byte_level):
    ids = byte_level("the answer", add_special_tokens=False).input_ids
    text, spans = decode(byte_level, ids)
    token = next(index for index, (start, end) in enumerate(spans) if end - start >= 3)
    start, end = spans[token]
    assert tokens_in(spans, [(start + 1, start + 2)]) == [token]
    assert tokens_in(spans, [(end - 1, end + 1)]) == [token, token + 1] if end < len(text) else [token]


def test_empty_and_touching_spans_take_no_token():
    spans = [(0, 2), (2, 2), (2, 5)]
    assert tokens_in(spans, [(2, 2)]) == []
    assert tokens_in(spans, [(2, 3)]) == [2]
    assert tokens_in(spans, [(0, 1), (4, 5)]) == [0, 2]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{42}.", "42"),
        ("\\boxed{1} then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{7} and \\boxed{unfinished", "7"),
        ("\\boxed{}", ""),
        ("nothing", None),
        ("\\boxed{", None),
    ],
)
def test_boxed_takes_the_last_balanced_box(text, answer):
    span = Boxed().extract(text)
    assert (None if span is None else text[slice(*span)]) == answer
    assert Boxed().decisive(text) is None
