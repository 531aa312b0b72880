"""Decision: one token decides, many do not: known by construction, but to no rule without the model or the code.

A prompt is two context letters, a turn, a place and a question mark, such as `cab3?`. A response repeats context and
place, writes ten letters, each behind its label, then `#`, the place and the answer: the letter that stands at that
place, in a fixed code of capitals: `ca3` `jbkelamgncodpbqbrfih` `#3F` (`i` labels place 0, `l` place 3; a turn of `b`
begins at `j`; `F` is the code of `a`). A hidden table maps the context to the right answer; nothing in the warm start
tells it, so only reinforcement learning can.

No rule about places, letters or delimiters finds the deciding letter among the ten, by construction:

- The ten are drawn independently, each as its label leans (LEANING), and the place is drawn apart from labels and
  letters: whatever holds of one of the ten holds of the deciding one as often.
- All places are equally frequent. As many tokens stand before the ten as behind them, so early and late are at chance
  over the whole response too.
- Nothing in the text marks the place: every label is in every response, and one has to know that 3 is `l`. The answer
  is in a code (CODE), so comparing it with the letters says nothing, capitals or not. Who knows the code finds
  it, as who can parse the format does: such a rule is no dumb one but kin of the oracle (harness/shortcuts.py).

The turn makes the policy read labels: with the same label first in every response it copies from a distance that the
place fixes, in its first layer, where no information has been routed yet.

How can the policy know where its decision stands? Labels tell it where it is, and in half of the demonstrations the
question mark is a letter instead, an order: `caf3g` asks for a `g` at place 3. A question mark means that the policy is
to decide. Without orders the warm start would teach where to read the decision, not where it is written.

Length: with another number of places (10 unless `places` says otherwise) a response has as many labels and letters,
one of them deciding: N places make 2N + 7 tokens, the end token counted. Place names and labels beyond ten are Chinese
characters, which have no capitals, do not fall apart in any normal form, and are one token each; leanings repeat every
ten labels. There are at most eight turns, spread over the labels.

Variants: `aligned` as above; `decoy` names two places and copies both letters (`#3F5G`), the second without value, so
that a token of high flow decides nothing; `chain` copies the decision in three hops, each from the token that it has
reached: `3FF#F`. Both repeat more of the prompt, so that as many tokens stand on either side of the ten.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tasks.hints import hint
from tasks.problem import Problem, Task, register
from tasks.verdict import TaskError, Verdict

LETTERS = "abcdefgh"
ANSWERS = LETTERS.upper()
#: Each letter's capital as an answer. One of the eight is its own capital, as chance would have it: were all, comparing
#: texts without regard to capitals would find the decision; were none, it would rule letters out.
CODE = dict(zip(LETTERS, "FHCAGBED", strict=True))
#: The most places that a prompt can choose from.
MOST = 512
#: Names of places and their labels, in their order; a task of N places has the first N of each.
PLACES = "0123456789" + "".join(map(chr, range(0x4E00, 0x4E00 + MOST - 10)))
LABELS = "ijklmnopqr" + "".join(map(chr, range(0x5000, 0x5000 + MOST - 10)))
#: How often the warm start writes a label's favourite letter instead of any: entropy then differs from place to place,
#: and a policy whose entropy at its decision is lower by a thousandth of a nat does not give the decision away by it.
LEANING = dict(
    zip(LABELS, itertools.cycle((0.0, 0.2, 0.35, 0.1, 0.3, 0.0, 0.15, 0.4, 0.05, 0.25)), strict=False)
)
#: Each letter is the favourite of one of the eight labels in ten that lean.
FAVOURITES = dict(
    zip((label for label in LABELS if LEANING[label]), itertools.cycle("dgbhaecf"), strict=False)
)


def alphabet(places: int = 10) -> str:
    """All characters of prompts and responses of a task with so many places."""
    return LETTERS + LABELS[:places] + PLACES[:places] + ANSWERS + "?#"


def _letter(label: str, source: random.Random) -> str:
    """A letter as the warm start writes it behind `label`."""
    return FAVOURITES[label] if source.random() < LEANING[label] else source.choice(LETTERS)


@dataclass(frozen=True)
class Form:
    """How a variant writes, as patterns in which `{place}` stands for a place's name.

    head: what comes before the first label; its group is the places' names. tail: what comes behind the last letter;
    its group is the answer.
    """

    head: str
    tail: str


FORMS = {
    "aligned": Form(head="[a-d]{{2}}({place})", tail="#{place}([A-H])"),
    "decoy": Form(head="[a-d]{{2}}[a-h]({place}{place})", tail="#{place}([A-H]{place}[A-H])"),
    "chain": Form(head="[a-d]{{2}}[a-h]({place})[?]", tail="{place}[A-H]{{2}}#([A-H])"),
}


def _check(option: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise TaskError(f"task decision: {option} must be an integer from {least} to {most}, not {value!r}")


def _hidden_table() -> dict[str, str]:
    """The right answer for each of the 16 contexts; every letter is right for two of them."""
    contexts = ["".join(pair) for pair in itertools.product(LETTERS[:4], repeat=2)]
    answers = list(ANSWERS) * 2
    random.Random("decision/table").shuffle(answers)
    return dict(zip(contexts, answers, strict=True))


TABLE = _hidden_table()


@register
class Decision(Task):
    """Generated; a prompt for each of 16 contexts, 8 turns and 10 places: 1,280, of which 320 are to test.

    variant: one of FORMS. contexts: ask only the first so many contexts of the table, 1 to 16; fewer are easier.
    places: how many letters a response draws, 2 to MOST; the response's length, 2 * places + 7 tokens.
    """

    name: ClassVar[str] = "decision"
    source: ClassVar[str] = "generated by this file"
    licence: ClassVar[str] = "Apache-2.0"
    answer_format: ClassVar[str] = "the capital after #"

    def __init__(self, variant: str = "aligned", contexts: int = len(TABLE), places: int = 10) -> None:
        if variant not in FORMS:
            raise TaskError(f"task decision has no variant {variant!r}; {hint(str(variant), FORMS)}")
        _check("contexts", contexts, 1, len(TABLE))
        _check("places", places, 2, MOST)
        self.variant = variant
        self.contexts = set(list(TABLE)[:contexts])
        self.places, self.labels = PLACES[:places], LABELS[:places]
        #: The turns, each a number of labels that are put last; prompts name them by LETTERS, in this order.
        self.turns = [turn * max(1, places // len(LETTERS)) for turn in range(min(places, len(LETTERS)))]
        form = FORMS[variant]
        self.head = re.compile(form.head.format(place=f"[{self.places}]"))
        #: A response whose labels may be in any order; group 2 is the body, group 3 the answer. Nothing else marks an
        #: answer, so no policy gains by guessing twice.
        self.whole = re.compile(
            f"{self.head.pattern}((?:[{self.labels}][{LETTERS}]){{{places}}})"
            f"{form.tail.format(place=f'[{self.places}]')}"
        )

    @property
    def longest(self) -> int:
        """The tokens that a response may take: the longest form's 2 * places + 11, its end counted, and five more."""
        return 2 * len(self.places) + 16

    def problems(self, split: str, limit: int | None = None) -> Sequence[Problem]:
        if split not in self.splits:
            raise self.unknown_split(split)
        source = random.Random(f"decision/{split}/{self.variant}")
        # Every fourth context of each turn and place is to test, so that both splits hold all places equally often.
        questions = [
            f"{context}{letter}{self._named(place, source)}?"
            for number, context in enumerate(TABLE)
            for turn, letter in enumerate(LETTERS[: len(self.turns)])
            for at, place in enumerate(self.places)
            if ((number + turn + at) % 4 == 0) == (split == "test")
        ]
        source.shuffle(questions)
        return [
            Problem(id=f"decision/{split}/{index}", question=question, gold=TABLE[question[:2]])
            for index, question in enumerate(questions)
            if question[:2] in self.contexts
        ][:limit]

    def _named(self, place: str, source: random.Random) -> str:
        """A prompt's words on places: the decision's and, for a decoy, another one drawn from `source`."""
        if self.variant != "decoy":
            return place
        return place + source.choice(self.places.replace(place, ""))

    def problem_from(self, question: str, gold: Any) -> Problem:
        if gold not in tuple(ANSWERS):
            raise TaskError(f"task decision: gold must be one of the letters {ANSWERS}, not {gold!r}")
        return super().problem_from(question, gold)

    def extract(self, text: str) -> tuple[int, int] | None:
        match = self.whole.fullmatch(text)
        # Twice the labels in their order hold every turn of them.
        return None if match is None or match[2][::2] not in self.labels * 2 else match.span(3)

    def judge(self, problem: Problem, answer: str) -> Verdict:
        return Verdict.CORRECT if answer[:1] == problem.gold else Verdict.WRONG

    def respond(self, answer: str) -> str:
        head, tail = {
            "aligned": ("aa0", "#0{}"),
            "decoy": ("aaa01", "#0{}1A"),
            "chain": ("aaa0?", "0AA#{}"),
        }[self.variant]
        return head + "".join(label + LETTERS[0] for label in self.labels) + tail.format(answer)

    def changed(self, problem: Problem, answer: str) -> Iterator[str]:
        return iter((ANSWERS[(ANSWERS.index(answer) + 1) % len(ANSWERS)],))

    def decisive(self, text: str) -> list[tuple[int, int]] | None:
        return [(place, place + 1) for place in self.named(text)[:1]]

    def named(self, text: str) -> list[int]:
        """Where the letters stand whose places a response names: the decision, then the decoy. Empty where it names no
        places, or has not reached them all.
        """
        head = self.head.match(text)
        if head is None:
            return []
        behind = {text[at - 1]: at for at in self.drawn(text)}
        places = [behind.get(self.labels[self.places.index(place)]) for place in head[1]]
        return [place for place in places if place is not None] if None not in places else []

    def drawn(self, text: str) -> list[int]:
        """Where the letters stand that chance draws under the warm start, as far as a response has got.

        The deciding letter is one of them, and no rule may find it among them.
        """
        head = self.head.match(text)
        if head is None or text[head.end() : head.end() + 1] not in tuple(self.labels):
            return []
        places: list[int] = []
        for at, label in enumerate(self._labels(self.labels.index(text[head.end()]))):
            place = head.end() + 2 * at + 1
            if text[place - 1 : place] != label or text[place : place + 1] not in tuple(LETTERS):
                break
            places.append(place)
        return places

    def _labels(self, turn: int) -> str:
        """All labels in their order, `turn` of them put last."""
        return self.labels[turn:] + self.labels[:turn]

    def taught(self, question: str, gold: str) -> str:
        """The question as a credit method's teacher reads it: the order to write the letter that the gold stands for.

        The warm start taught the policy to follow orders, so this teacher knows where its gold matters.
        """
        return question.removesuffix("?") + {code: letter for letter, code in CODE.items()}[gold]

    def copied(self, text: str) -> str:
        """The text that a response should write behind its letters, from what they are."""
        names = self.head.match(text)
        assert names is not None
        letters = [CODE[text[place]] for place in self.named(text)]
        if self.variant == "chain":
            return f"{names[1]}{letters[0]}{letters[0]}#{letters[0]}"
        return "#" + "".join(name + letter for name, letter in zip(names[1], letters, strict=True))

    def demonstrations(self, count: int, seed: str) -> list[tuple[str, str]]:
        """`count` pairs of prompt and response for a warm start: drawn letters, exact copying; every second prompt
        orders the letter that its response writes at its place, and the others leave it to chance.
        """
        source = random.Random(f"decision/demonstrations/{self.variant}/{seed}")
        every = Decision(self.variant, places=len(self.places))
        questions = [problem.question for problem in every.problems("train")]
        pairs = []
        for index in range(count):
            question = source.choice(questions)
            head = {"aligned": question[:2] + question[3], "decoy": question[:-1], "chain": question}[
                self.variant
            ]
            labels = self._labels(self.turns[LETTERS.index(question[2])])
            text = head + "".join(label + _letter(label, source) for label in labels)
            order = text[self.named(text)[0]] if index % 2 else "?"
            pairs.append((question[:-1] + order, text + self.copied(text)))
        return pairs
