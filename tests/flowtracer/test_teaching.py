"""Protects the teacher's second prompt: where the gold stands in it, and that the student never reads it."""

import json
from functools import partial

import pytest
import torch
from datasets import Dataset

import tasks
from flowtracer import CreditError, CreditGRPOTrainer, credit, weigh
from flowtracer.credit.teacher import TEMPLATE, filled
from flowtracer.teaching import Words, asked, check_context, gold_text, taught_prompt, words_of
from tasks.decision import CODE
from tests.flowtracer.conftest import tiny_model
from tests.flowtracer.test_trainer import PROMPTS, SEAMS, Letters, parameters, right, same, train

TAUGHT = ("rlsd", "opsd", "oppo")
BEHIND = "{question}{gold}"


def by(template):
    return Words(template, partial(filled, template))


# ------------------------------------------------------------------------------------- the prompt


@pytest.mark.parametrize(
    ("prompt", "question", "template", "expected"),
    [
        ("abc?", "bc", BEHIND, "abc7?"),
        ("abc?", "abc?", "{gold}={question}", "7=abc?"),
        ("abc?", None, BEHIND, "abc?7"),
        ("abab?", "ab", BEHIND, "abab7?"),  # where it stands last
        ("a?", "?", "{gold}{question}{gold}", "a7?7"),
    ],
)
def test_the_gold_stands_beside_the_question(tokenizer, prompt, question, template, expected):
    ids = tokenizer(prompt).input_ids
    taught = taught_prompt(tokenizer, ids, question, "7", by(template))
    assert tokenizer.decode(taught) == expected
    assert tokenizer.decode(ids) == prompt, "the student's is left as it was"


def test_tokens_of_a_chat_template_stay(byte_tokenizer):
    """Special tokens are no text: they are neither decoded nor read again."""
    end = byte_tokenizer.eos_token_id
    student = [end, *byte_tokenizer("user: 2+3? go", add_special_tokens=False).input_ids, end, end]
    taught = taught_prompt(byte_tokenizer, student, " 2+3? ", "5", by("{question} (it is {gold})"))
    assert taught[0] == end and taught[-2:] == [end, end] and taught.count(end) == 3
    assert byte_tokenizer.decode(taught, skip_special_tokens=True) == "user: 2+3? (it is 5) go"


def test_a_token_that_reaches_over_the_question_loses_nothing():
    """Here a token is a word with the blank before it; the question begins in the middle of one."""

    class Words:
        unk_token_id = None

        def __init__(self):
            self.words = []

        def __call__(self, text, **_):
            ids = []
            for word in text.replace(" ", "\0 ").split("\0"):
                if word not in self.words:
                    self.words.append(word)
                ids.append(self.words.index(word))
            return type("Encoded", (), {"input_ids": ids})

        def decode(self, ids, **_):
            return "".join(self.words[index] for index in ids)

    tokenizer = Words()
    student = tokenizer("Q:two plus two? Think").input_ids
    taught = taught_prompt(tokenizer, student, "two plus two?", "4", by("{question} = {gold}."))
    assert tokenizer.decode(taught) == "Q:two plus two? = 4. Think"


def test_a_prompt_that_cannot_be_made_is_one_line(tokenizer):
    ids = tokenizer("abc?").input_ids
    with pytest.raises(CreditError, match="the question 'x' does not stand in its prompt 'abc\\?'"):
        taught_prompt(tokenizer, ids, "x", "7", by(BEHIND))
    with pytest.raises(CreditError, match="cannot read the teacher's prompt .*`template` to words") as error:
        taught_prompt(tokenizer, ids, "abc?", "7", by(TEMPLATE))
    assert "\n" not in str(error.value)


def test_an_unknown_token_in_the_teachers_prompt_is_an_error(tokenizer):
    """A tokenizer with an unknown token raises nothing, and the teacher would read a gap."""

    class Gaps:
        unk_token_id = tokenizer.convert_tokens_to_ids(";")

        def __call__(self, text, **options):
            known = "".join(letter if letter in tokenizer.get_vocab() else ";" for letter in text)
            return tokenizer(known, **options)

        def decode(self, ids, **options):
            return tokenizer.decode(ids, **options)

    ids = tokenizer("abc?").input_ids
    with pytest.raises(CreditError, match="does not know all of the teacher's prompt"):
        taught_prompt(Gaps(), ids, "abc?", "7", by("{question} Z {gold}"))


def test_words_are_the_options_then_the_tasks_then_our_own():
    assert words_of(credit.get("flow"), Letters()) is None
    assert words_of(credit.get("rlsd"), Letters()).put("a?", "7") == "a?7"
    assert words_of(credit.get("rlsd"), object()).text == TEMPLATE
    own = words_of(credit.get("rlsd", template="{gold}{question}"), Letters())
    assert own.text == "{gold}{question}" and own.put("a?", "7") == "7a?"
    assert words_of(credit.get("rlsd", sign="negative"), Letters()).put("a?", "7") == "a?7"
    assert words_of(credit.get("rlsd"), tasks.get("decision")).text == "the words of task decision"


def test_the_teacher_of_decision_is_given_an_order():
    """As in the demonstrations of its warm start: the letter whose code is the gold, in place of the question mark."""
    task = tasks.get("decision")
    (problem,) = task.problems("train", 1)
    ordered = task.taught(problem.question, task.gold_answer(problem))
    assert ordered[:-1] == problem.question[:-1] and CODE[ordered[-1]] == problem.gold


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "text", "question": "a?"}, "a?"),
        ({"prompt": "text"}, "text"),
        ({"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}, "u"),
        ({"prompt": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "x"},
                     {"role": "user", "content": "v"}]}, "v"),
        ({"prompt": [{"role": "user", "content": [{"type": "text"}]}]}, None),
        ({"prompt": []}, None),
    ],
)  # fmt: skip
def test_the_question_of_a_row(row, expected):
    assert asked(row) == expected


# ------------------------------------------------------------------------------------- the gold


def test_the_gold_of_a_task_is_the_text_of_a_right_answer():
    game = tasks.get("countdown")
    (problem,) = game.problems("train", 1)
    text = gold_text(game, problem.question, json.dumps(problem.gold))
    assert game.verify(problem, game.respond(text)) is tasks.Verdict.CORRECT
    assert gold_text(Letters(), "a?", "seven") == "seven", "any other task's is the text"


@pytest.mark.parametrize("gold", [None, "", "  ", 7, ["7"]])
def test_a_gold_without_text_is_refused(gold):
    with pytest.raises(CreditError, match="the gold of 'a\\?' is .*: the teacher needs its text"):
        gold_text(Letters(), "a?", gold)


def test_a_task_without_gold_is_refused():
    class Silent(type(tasks.get("decision"))):
        def gold_answer(self, problem):
            return None

    with pytest.raises(CreditError, match="task decision states no right answer to 'abcd\\?'"):
        gold_text(Silent(), "abcd?", '"A"')
    with pytest.raises(CreditError, match="must be JSON as in tasks.dataset\\('decision', split\\), not 'a'"):
        gold_text(tasks.get("decision"), "abcd?", "a")


def test_a_prompt_beyond_the_context_is_refused():
    model = tiny_model("qwen3", max_position_embeddings=20)
    check_context(model, [[2] * 15, [2] * 3], 5)
    check_context(model, [], 5)
    with pytest.raises(CreditError, match="has 16 tokens and a response up to 5; the model reads at most 20"):
        check_context(model, [[2] * 3, [2] * 16], 5)


# ------------------------------------------------------------------------------------- in training


class Watched(CreditGRPOTrainer):
    """Notes the text of every sequence that the policy reads, by teacher and by student."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.by_teacher, self.seen = False, {True: [], False: []}
        self.with_gradient = []
        self.model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, module, args, kwargs):
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        if ids.shape[1] > 1:  # one token at a time is sampling behind a prompt that was seen
            texts = self.processing_class.batch_decode(ids, skip_special_tokens=True)
            self.seen[self.by_teacher] += texts
            if torch.is_grad_enabled():
                self.with_gradient += texts

    def teacher_logprobs(self, *args):
        self.by_teacher = True
        try:
            return super().teacher_logprobs(*args)
        finally:
            self.by_teacher = False


@pytest.mark.parametrize("seam", list(SEAMS))
@pytest.mark.parametrize("name", TAUGHT)
def test_the_gold_never_reaches_the_student(tokenizer, tmp_path, name, seam):
    """Sampling, old log-probabilities, extra passes, training: each reads a prompt of the data set as it is."""
    watched = {"cls": Watched, "reward": right, "credit": name, "task": Letters(), "steps": 2}
    trainer = train(tokenizer, tmp_path, **watched, **SEAMS[seam])
    student, teacher = trainer.seen[False], trainer.seen[True]
    assert trainer.with_gradient and set(trainer.with_gradient) <= set(student)
    assert all(text.startswith(tuple(PROMPTS)) for text in student)
    taught = ("a7bc?", "a8?", "dcbaabcd9?", "bb7?")
    assert teacher and all(text.startswith(taught) for text in teacher)
    batch = trainer.rollouts
    assert {tokenizer.decode(ids) for ids in batch.prompt_ids} <= set(PROMPTS)
    inside = batch.weights[batch.in_loss]
    assert inside.isfinite().all() and inside.min() < inside.max()


def test_a_teacher_without_weight_is_stock_grpo_bit_for_bit(tokenizer, tmp_path):
    """Its forward moves no generator and leaves the policy as it is."""
    plain = train(tokenizer, tmp_path, credit="uniform", task=Letters())
    taught = train(tokenizer, tmp_path, credit=credit.get("rlsd", mix=0.0), task=Letters())
    assert taught.rollouts.teacher_logprobs is not None
    assert same(plain, taught) and len(parameters(plain)) > 0
    assert taught.model.training == plain.model.training


def test_the_teachers_log_probabilities_are_those_of_a_plain_forward(tokenizer, tmp_path):
    trainer = train(tokenizer, tmp_path, credit="rlsd", task=Letters(), steps=1, temperature=0.7)
    batch, model = trainer.rollouts, tiny_model("qwen3", seed=3)
    for row, (prompt, response) in enumerate(zip(batch.teacher_prompts, batch.response_ids, strict=True)):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1] / 0.7
        expected = logits.log_softmax(-1)[range(len(response)), response]
        measured = batch.teacher_logprobs[row, : len(response)]
        torch.testing.assert_close(measured, expected, rtol=0, atol=1e-4)


def test_a_plain_trl_script_with_a_named_task(tokenizer, tmp_path):
    """The data set that `tasks.dataset` makes, its prompts as texts; credit by its name."""
    rows = tasks.dataset("decision", "train", limit=4).to_list()
    prompts = [{**row, "prompt": row["prompt"][0]["content"]} for row in rows]
    trainer = train(tokenizer, tmp_path, data=Dataset.from_list(prompts), credit="rlsd", task="decision")
    golds = {row["question"]: json.loads(row["gold"]) for row in rows}
    batch = trainer.rollouts
    for student, teacher in zip(batch.prompt_ids, batch.teacher_prompts, strict=True):
        question = tokenizer.decode(student)
        assert tokenizer.decode(teacher) == tasks.get("decision").taught(question, golds[question])
    assert trainer.credit_settings()["credit_teacher"] == "the words of task decision"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns": ["prompt", "question"]}, "no column `gold`.* it has prompt, question"),
        ({"credit": credit.get("opsd", template="{question}" + "a" * 250 + "{gold}")}, "at most 256"),
        ({"credit": credit.get("oppo", template="Z{question}{gold}")}, "cannot read the teacher's prompt"),
        ({"data": Dataset.from_dict({"prompt": PROMPTS, "gold": ["", "7", "7", "7"]})}, "needs its text"),
    ],
)
def test_bad_input_is_refused_in_one_line(tokenizer, tmp_path, changes, words):
    with pytest.raises(CreditError, match=words) as error:
        train(tokenizer, tmp_path, **{"credit": "rlsd", "task": Letters(), **changes})
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------- by `weigh`


@pytest.mark.parametrize(
    ("golds", "words"),
    [(None, "give golds="), (["7"], "1 golds for 2 prompts"), (["7", " "], "golds\\[1\\] is ' '")],
)
def test_weigh_asks_for_the_golds(tokenizer, golds, words):
    with pytest.raises(CreditError, match=words):
        weigh(tiny_model("qwen3"), tokenizer, ["abc?"] * 2, ["ab", "c"], "opsd", task=Letters(), golds=golds,
              advantages=[1.0, -1.0])  # fmt: skip


def test_weigh_in_steps_is_weigh_at_once(tokenizer):
    arguments = (tiny_model("qwen3"), tokenizer, ["abc?", "a?", "bb?"], ["ab", "cabd", "c"], "opsd")
    options = {"task": Letters(), "golds": ["7", "8", "9"], "advantages": [1.0, -1.0, 0.5]}
    whole = weigh(*arguments, **options)
    for one, other in zip(whole, weigh(*arguments, **options, batch_size=1), strict=True):
        torch.testing.assert_close(one.addend, other.addend, rtol=0, atol=1e-5)
    other = weigh(*arguments, **{**options, "golds": ["9", "8", "9"]})
    assert not torch.equal(whole[0].addend, other[0].addend), "it is the gold that counts"
    assert torch.allclose(whole[1].addend, other[1].addend, atol=1e-5)
