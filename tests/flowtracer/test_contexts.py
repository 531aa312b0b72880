"""Protects where an answer is looked for: in what the policy wrote as content, among the tokens that were sampled."""

import pytest

from flowtracer import CreditError, contexts, credit
from flowtracer.boxed import Boxed
from flowtracer.contexts import ContextBuilder, Located, locate, question_tokens, stream
from flowtracer.layout import Padded, Turn, pad, turns_of


class Digits:
    """A task whose answer is the last run of digits, and whose first character decides."""

    def extract(self, text):
        end = max((at + 1 for at, letter in enumerate(text) if letter.isdigit()), default=0)
        start = end
        while start and text[start - 1].isdigit():
            start -= 1
        return (start, end) if end else None

    def decisive(self, text):
        return [(0, 1)] if text else []


def where(tokenizer, said, turns, task=None, **keywords):
    """The located answer as text, and what else is known."""
    ids = [token if isinstance(token, int) else tokenizer(token).input_ids[0] for token in said]
    located = locate(tokenizer, task or Digits(), ids, turns(len(ids)), **keywords)
    return "".join(tokenizer.decode([ids[token]]) for token in located.answer), located


def whole(text, calls=()):
    return lambda length: [Turn(0, length, text, calls)]


def test_the_answer_of_a_text_is_its_own_tokens(tokenizer):
    answer, located = where(tokenizer, "ab=12;c", whole("ab=12;c"))
    assert answer == "12" and located.answer == [3, 4] and located.trouble is None


def test_content_is_found_behind_reasoning_that_says_the_same(tokenizer):
    _, located = where(tokenizer, "a12b#a12", whole("a12"))
    assert located.answer == [6, 7]


def test_content_is_found_in_front_of_a_call_that_repeats_it(tokenizer):
    """`42` stands in the content and again among the arguments of the call: only the first is content."""
    calls = (("add", "42", "7"),)
    _, located = where(tokenizer, "co42#add42;7", whole("co42", calls))
    assert located.answer == [2, 3]
    _, alone = where(tokenizer, "42#add42;7", whole("42", calls))
    assert alone.answer == [0, 1]
    _, without = where(tokenizer, "42#add42;7", whole("42"))
    assert without.answer == [6, 7], "with no call behind it, what stands last is content"


def test_a_special_token_inside_does_not_hide_the_answer(tokenizer):
    """The parser, or a tokenizer of the user's, keeps the name of a special token in the content."""
    answer, located = where(tokenizer, ["a", 1, "b", "4", "2"], whole("a<eos>b42"))
    assert answer == "42" and located.answer == [3, 4]
    answer, _ = where(tokenizer, ["a", 1, "b", "4", "2"], whole("ab42"))
    assert answer == "42"


def test_a_text_that_was_changed_is_known_as_such(tokenizer):
    _, located = where(tokenizer, "ab12", whole("AB12"))
    assert located == Located(trouble="text changed after sampling")
    _, without = where(tokenizer, "ab12", whole("AB"))
    assert without == Located(), "it has no answer that could be missed"


def test_the_last_turn_with_an_answer_holds_it_and_an_environment_never(tokenizer):
    mask = [1, 1, 0, 0, 1, 1]
    assert where(tokenizer, "1a2b3c", lambda length: turns_of(mask, length))[1].answer == [4]
    assert where(tokenizer, "1a2bcd", lambda length: turns_of(mask, length))[1].answer == [0]
    assert where(tokenizer, "aa2bcd", lambda length: turns_of(mask, length))[1].answer == []
    assert where(tokenizer, "aa2bcd", lambda length: turns_of([0] * 6, length))[1] == Located()


def test_decisive_tokens_are_those_of_the_same_turn(tokenizer):
    _, located = where(
        tokenizer, "1a2b3c", lambda length: turns_of([1, 1, 0, 0, 1, 1], length), decisive=True
    )
    assert located.decisive == [4]
    _, without = where(tokenizer, "abc", whole("abc"), decisive=True)
    assert without == Located(decisive=[0])


@pytest.mark.parametrize(
    ("mask", "turns"),
    [
        (None, [(0, 5)]),
        ([1] * 5, [(0, 5)]),
        ([0] * 5, []),
        ([0, 1, 1, 0, 1], [(1, 3), (4, 5)]),
        ([1, 0, 0, 0, 0], [(0, 1)]),
    ],
)
def test_turns_are_what_the_policy_wrote(mask, turns):
    assert [(turn.start, turn.end) for turn in turns_of(mask, 5)] == turns


def test_batches_are_padded_as_trl_pads():
    batch = pad([[5, 6], [7]], [[8], [9, 10, 11]], 0, "cpu")
    assert batch.input_ids.tolist() == [[5, 6, 8, 0, 0], [0, 7, 9, 10, 11]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]]
    assert batch.on_response([[0], [2]]).int().tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]
    assert batch.on_prompt([[1], [0]]).int().tolist() == [[0, 1, 0, 0, 0], [0, 1, 0, 0, 0]]
    assert isinstance(batch[:1], Padded) and batch[:1].length == 3


def test_streams_are_of_their_place_alone():
    places = [
        (seed, step, group, sample)
        for seed in (0, 1)
        for step in (0, 1)
        for group in (0, 1)
        for sample in (0, 1)
    ]
    seeds = {stream(*place) for place in places}
    assert len(seeds) == 16 and all(0 <= seed < 2**63 for seed in seeds)
    assert stream(1, 2, 3, 4) == stream(1, 2, 3, 4)


def test_what_a_method_does_not_need_costs_nothing(tokenizer):
    class Never:
        def extract(self, text):
            raise AssertionError("uniform asks for no answer")

        decisive = extract

    builder = ContextBuilder(credit.get("uniform"), Never(), tokenizer)
    assert builder.locate([2, 3], [Turn(0, 2)]) == Located()
    assert builder.questions([[2]], ["a"]) is None
    assert not builder.reads_forward


def test_reasons_say_what_is_known():
    located = [Located(), Located(trouble="empty answer"), Located(answer=[1])]
    reasons = {0: "no answer", 1: "no answer", 2: "answer unreachable"}
    assert contexts.named(reasons, located) == {0: "no answer", 1: "empty answer", 2: "answer unreachable"}
    assert contexts.named(reasons, located, [[1], [1], []])[2] == "question not in the prompt"


def test_tasks_are_named_made_or_the_last_box():
    assert isinstance(contexts.answer_task(None), Boxed)
    assert contexts.answer_task("gsm8k").name == "gsm8k"
    digits = Digits()
    assert contexts.answer_task(digits) is digits
    function = contexts.answer_task(digits.extract)
    assert function.extract("a1") == (1, 2) and function.decisive("a1") is None
    with pytest.raises(CreditError, match="task='gsm9k' is not known; did you mean 'gsm8k'"):
        contexts.answer_task("gsm9k")


def test_whatever_ends_a_response_is_an_end(tokenizer):
    """A policy may stop at several tokens: to ktae the second one must not be a token like any other."""
    method = credit.get("ktae")
    batch = pad([[2, 3]], [[5, 1, 6]], 0, "cpu")
    for ends, expected in ((None, [1]), ([1, 6], [1, 2])):
        context = ContextBuilder(method, Boxed(), tokenizer, ends).context(batch, [Located()])
        assert context.ends[0, 2:].nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("question", ["cd", " cd\n"])
def test_a_question_is_found_without_the_blanks_that_a_template_strips(tokenizer, question):
    """Else every response to it abstains, for a blank in the data set."""
    assert question_tokens(tokenizer, tokenizer("cdabcd?").input_ids, question) == [4, 5]
    assert question_tokens(tokenizer, tokenizer("abc?").input_ids, question) == []
    assert question_tokens(tokenizer, tokenizer("abc?").input_ids, " ") == []


def test_a_question_that_is_no_text_is_named(tokenizer):
    builder = ContextBuilder(credit.get("flow", source="question"), Digits(), tokenizer)
    with pytest.raises(CreditError, match="the question 7 is no text"):
        builder.questions([[2]], [7])
