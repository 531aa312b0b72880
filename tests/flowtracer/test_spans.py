"""Protects the map from characters to sampled tokens: an answer's span must cover exactly the tokens that wrote it."""

import random
import time

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from flowtracer.spans import _incremental_spans, _joined_spans, _Pieces, decode, tokens_in

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


CORPUS = [
    "the answer is \\boxed{42} so 1 + 1 = 2 and therefore we get the result",
    "what is 3 * 4? it's 12.",
] * 20


def wrapped(raw, **changes):
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, **{"eos_token": "</s>", "clean_up_tokenization_spaces": False, **changes}
    )


def llama_2():
    """Blanks belong to words, bytes are a fallback, and decoding strips the first blank of a text."""
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    raw.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    )
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    raw.decoder = decoders.Sequence(strip)
    return wrapped(raw, bos_token="<s>")


def word_piece():
    """Decoding writes blanks between words, and takes those before punctuation away again."""
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", "</s>"], show_progress=False)
    raw.train_from_iterator(CORPUS, trainer)
    return wrapped(raw, clean_up_tokenization_spaces=True)


def unigram():
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    raw.train_from_iterator(CORPUS, trainer)
    return wrapped(raw, unk_token="<unk>", clean_up_tokenization_spaces=True)


FAMILIES = {"llama_2": llama_2, "word_piece": word_piece, "unigram": unigram}


@pytest.fixture(scope="module", params=[*FAMILIES, "byte_level"])
def any_tokenizer(request, byte_level):
    return FAMILIES[request.param]() if request.param in FAMILIES else byte_level


def by_prefixes(tokenizer, ids, text):
    """The end of each token in the text, by the definition: the prefix up to it, where that is final."""
    ends = []
    for count in range(1, len(ids) + 1):
        prefix = tokenizer.decode(ids[:count], skip_special_tokens=True)
        final = text.startswith(prefix) and not prefix.endswith("\ufffd")
        ends.append(len(prefix) if final else None)
    return ends


@pytest.mark.parametrize("text", [*CORPUS[:2], *TEXTS])
def test_spans_of_every_family_are_those_of_decoded_prefixes(any_tokenizer, text):
    ids = any_tokenizer(text, add_special_tokens=False).input_ids
    ids = ids[: len(ids) // 2] + [any_tokenizer.eos_token_id] + ids[len(ids) // 2 :]
    decoded, spans = decode(any_tokenizer, ids)
    check_tiling(decoded, spans)
    for (_, end), expected in zip(spans, by_prefixes(any_tokenizer, ids, decoded), strict=True):
        assert expected is None or end >= expected  # more only where tokens share what they write
    assert [span for span in spans if span[0] < span[1]] or not decoded


@pytest.mark.parametrize("kind", ["words", "random tokens"])
def test_spans_cost_a_constant_number_of_decoded_tokens_each(any_tokenizer, kind, monkeypatch):
    """9 s for a response of 8,000 tokens, by decoding every prefix: with Llama 2, Mistral 7B, Phi-3 and others."""
    source = random.Random(0)
    ids = any_tokenizer("the answer is 42 and so " * 1500, add_special_tokens=False).input_ids[:4000]
    if kind == "random tokens":
        ids = [source.randrange(len(any_tokenizer)) for _ in range(4000)]
    decoded, whole = [], type(any_tokenizer).decode

    def counting(self, tokens, **keywords):
        decoded.append(len(tokens))
        return whole(self, tokens, **keywords)

    monkeypatch.setattr(type(any_tokenizer), "decode", counting)
    begin = time.process_time()
    text, spans = decode(any_tokenizer, ids)
    assert time.process_time() - begin < 2  # 0.02 where nothing else runs
    assert sum(decoded) < 100 * len(ids)
    check_tiling(text, spans)


def test_a_tokenizer_whose_tokens_never_concatenate_has_spans_by_blocks():
    """Every seventh token changes what stands before it: spans still tile, at a bounded cost."""

    class Odd:
        calls = 0

        def decode(self, ids, skip_special_tokens=True):
            Odd.calls += len(ids)
            return "".join(f"<{token}>" if token % 7 else f"[{index}]" for index, token in enumerate(ids))

    ids = [source % 11 for source in range(1, 1000)]
    text, spans = decode(Odd(), ids)
    check_tiling(text, spans)
    assert Odd.calls < 300 * len(ids)


def test_special_tokens_can_stand_in_the_text(byte_level):
    eos = byte_level.eos_token_id
    ids = [*byte_level("a", add_special_tokens=False).input_ids, eos, *byte_level("b").input_ids]
    assert decode(byte_level, ids, special=True) == ("a<eos>b", [(0, 1), (1, 6), (6, 7)])
    assert decode(byte_level, ids) == ("ab", [(0, 1), (1, 1), (1, 2)])


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
    joined = _joined_spans(byte_level, ids, _Pieces(special=False), text)
    if joined is not None:
        assert joined == _incremental_spans(byte_level, ids, text)
    check_tiling(*decode(byte_level, ids))


def test_one_emoji_does_not_make_a_long_response_slow(byte_level):
    """Prefix by prefix, 6,000 tokens take tens of seconds: as many decodings as tokens, each of the whole prefix."""
    ids = byte_level("the answer 🎉 " * 500, add_special_tokens=False).input_ids
    begin = time.process_time()
    text, spans = decode(byte_level, ids)
    assert time.process_time() - begin < 5
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
