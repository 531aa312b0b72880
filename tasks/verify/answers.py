"""The comparison of an answer with a gold.

The gold decides what is compared. A gold that lists several answers needs exactly those, in any order; one that is a
tuple or an interval needs the same brackets and order; one that is a single value is not met by a list that contains
it. RULES says which rule compares which two kinds; forms.py says what kind a text is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tasks.verdict import Verdict
from tasks.verify import quantities, regions, restating, spelling
from tasks.verify.comparison import Comparison
from tasks.verify.forms import Form, ordered_name, parse, spread, words
from tasks.verify.pool import Pool, shared
from tasks.verify.spelling import clean

#: An answer longer than this, or nested deeper, is wrong unless it repeats the gold; golds are far below both.
LONGEST = spelling.LONGEST
DEEPEST = 24
_MOST_ITEMS = 64

Rule = Callable[[Form, Form, Comparison], bool]


def judge(gold: str, answer: str, question: str = "", pool: Pool | None = None) -> Verdict:
    """The verdict on `answer`, the text of an answer span, against `gold`, the reference's text.

    `question` decides readings: of a bare number where a percentage is asked for, of digits in a base, of `3:30`. A
    formula that is only copied from it is wrong.
    Timeout where the comparison did not end in time or memory, error where the gold itself cannot be read.
    """
    cleaned_gold, cleaned = clean(gold[: 4 * LONGEST]), clean(answer[: 4 * LONGEST])
    if spelling.same(cleaned_gold, cleaned) and len(answer) <= 4 * LONGEST:
        return Verdict.CORRECT
    cleaned_gold = re.sub(r"^\\approx(?![a-zA-Z])\s*", "", cleaned_gold)  # a gold that is rounded says so
    if len(cleaned_gold) > LONGEST or spelling.depth(cleaned_gold) > DEEPEST:
        return Verdict.ERROR  # no gold is so written: nothing can be said of the answer
    if len(answer) > LONGEST or not cleaned or spelling.depth(cleaned) > DEEPEST:
        return Verdict.WRONG
    if restating.repeats(cleaned_gold, cleaned, question):
        return Verdict.WRONG
    pool = pool or shared()
    comparison = Comparison(question, pool, pool.deadline)
    for read_gold, read_answer in _readings(cleaned_gold, cleaned):
        if equal(parse(read_gold), parse(read_answer), comparison):
            return Verdict.CORRECT
    if comparison.timed_out:
        return Verdict.TIMEOUT
    return Verdict.ERROR if comparison.unreadable else Verdict.WRONG


def is_integer(gold: int, answer: str, question: str = "") -> bool:
    """True if `answer` states an integer, for tasks whose golds are integers; nothing here takes long.

    It may be labelled (`m+n = 25`), shown as a sum that is done (`12+13 = 25`), or stand behind an option's letter; an
    expression that is left to be computed (`5^2`) states none.
    """
    if len(answer) > LONGEST:
        return False
    cleaned = clean(answer)
    if spelling.depth(cleaned) > DEEPEST:
        return False
    cleaned = quantities.without_option(cleaned)
    wanted = Form("number", str(gold))
    comparison = Comparison(question, None, 0.0)
    forms = [parse(text) for text in dict.fromkeys((cleaned, spelling.ungrouped(cleaned)))]
    return any(
        form.kind in ("number", "equation", "set", "residue") and equal(wanted, form, comparison)
        for form in forms
    )


def is_list(gold: str) -> bool:
    """True if a gold lists several answers."""
    form = parse(clean(gold))
    return form.kind == "list" or len(spread(form)) > 1


def _readings(gold: str, answer: str) -> list[tuple[str, str]]:
    """The two texts, and once more without commas that may group digits, where there are any."""
    readings = [(gold, answer)]
    plain = spelling.ungrouped(gold), spelling.ungrouped(answer)
    return readings if plain == readings[0] else [*readings, (gold, plain[1]), plain]


def equal(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """True if two forms say the same, by the rule for their kinds."""
    if spelling.same(gold.text, answer.text) and gold.kind == answer.kind and gold.kind != "interval":
        return True
    rule = RULES.get((gold.kind, answer.kind)) or RULES.get((gold.kind, "*")) or RULES.get(("*", answer.kind))
    if len(spread(gold)) > 1:
        rule = items
    if words(gold.text) is not None and gold.kind in ("formula", "list", "region"):
        known = quantities.same_words(gold, answer)
        if known is not None:
            return known
    return rule is not None and rule(gold, answer, comparison)


def items(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """Lists and sets: the same items in any order; where the gold names them, and the answer does not, in its order."""
    wanted = gold.parts or (() if gold.kind in ("set", "list") else spread(gold))
    collections = ("list", "set") if gold.kind == "list" else ("list", "set", "union")
    given: Sequence[Form] = answer.parts if answer.kind in collections else spread(answer)
    if "or" in (gold.brackets, answer.brackets) and gold.brackets != answer.brackets:
        return False
    if answer.kind == "number" and "," in answer.text and gold.kind == "list":
        given = tuple(
            parse(item) for item in spelling.split(answer.text, ",")
        )  # 1,234 is two answers where two are due
    if len(wanted) != len(given) or len(wanted) > _MOST_ITEMS:
        return False
    given = quantities.with_common_label(given)
    if quantities.in_order_of_names(wanted, given):
        return all(equal(part, other, comparison) for part, other in zip(wanted, given, strict=True))
    remaining = list(given)
    for item in wanted:
        # Exact repeats first: they cost nothing, and leave less for the workers.
        remaining.sort(key=lambda other: not spelling.same(item.text, other.text))
        for index, other in enumerate(remaining):
            if equal(item, other, comparison):
                del remaining[index]
                break
        else:
            return False
    return True


def parts(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """Tuples, intervals, matrices: the same brackets, and the same parts in the same order."""
    if gold.brackets != answer.brackets or len(gold.parts) != len(answer.parts):
        return False
    return all(equal(part, other, comparison) for part, other in zip(gold.parts, answer.parts, strict=True))


def only_item(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """A set of one for a single value: `\\{25\\}` is 25."""
    return len(answer.parts) == 1 and equal(gold, answer.parts[0], comparison)


def labelled_answer(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """`(x, y) = (2, 3)` for a gold that is no value: what stands behind the name."""
    sides = spelling.split(answer.text, "=")
    return len(sides) == 2 and quantities.is_label(sides[0]) and equal(gold, parse(sides[1]), comparison)


def labelled_gold(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """A gold with a name, and an answer that is no value."""
    sides = spelling.split(gold.text, "=")
    return len(sides) == 2 and quantities.is_label(sides[0]) and equal(parse(sides[1]), answer, comparison)


def interval(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """Intervals part by part, and where that fails as the sets of numbers that they are.

    Where both are orders they are about the same name: `f(x) > 2` may be written `y > 2`, and never `z > 2`.
    """
    names = [re.sub(r".*\(.*", "y", ordered_name(form)) for form in (gold, answer)]
    if all(names) and names[0] != names[1]:
        return False
    same_parts = answer.kind == gold.kind and parts(gold, answer, comparison)
    return same_parts or regions.same(gold, answer) or bool(regions.same_side(gold.text, answer.text))


def point_or_interval(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """`(0, 1)` is a point or an interval: as a gold it is met by either, with its own brackets."""
    if answer.kind in ("tuple", "interval"):
        return parts(gold, answer, comparison)
    return len(gold.parts) == 2 and regions.same(gold, answer)


def union(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """Unions piece by piece, and where that fails as sets of numbers."""
    alike = answer.kind == "union" and gold.brackets == answer.brackets
    return (alike and items(gold, answer, comparison)) or regions.same(gold, answer)


def region(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """Inequalities that are no interval: as sets of numbers, else by the larger parser."""
    known = regions.compared(gold, answer)
    if known is None and answer.kind in ("region", "interval"):
        side = regions.same_side(gold.text, answer.text)
        if side is None and answer.kind == "region":
            return comparison.same(gold.text, answer.text)
        return bool(side)
    return bool(known)


def labelled_items(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """`x = \\pm 1` and `S = \\{1, 2\\}` for a gold of several items."""
    return items(gold, answer, comparison) or labelled_answer(gold, answer, comparison)


def set_items(gold: Form, answer: Form, comparison: Comparison) -> bool:
    """Finite sets: the same items; a union of finite sets is one too."""
    return items(gold, answer, comparison) or (answer.kind == "union" and regions.same(gold, answer))


_VALUES = ("number", "formula")
_SETS = ("interval", "union", "region")

#: (kind of gold, kind of answer) -> rule. "*" stands for every kind without a row; two kinds without a rule differ.
RULES: dict[tuple[str, str], Rule] = {
    ("number", "number"): quantities.numbers_,
    **{
        (gold, answer): quantities.quantity
        for gold in _VALUES
        for answer in _VALUES
        if (gold, answer) != ("number",) * 2
    },
    **{(gold, "equation"): quantities.stated for gold in _VALUES},
    **{(gold, kind): quantities.in_base for gold in ("number", "formula") for kind in ("numeral",)},
    **{("numeral", kind): quantities.in_base for kind in ("number", "formula", "numeral")},
    **{("equation", kind): quantities.named for kind in (*_VALUES, "numeral", "residue")},
    ("equation", "equation"): quantities.equations,
    ("equation", "*"): labelled_gold,
    ("number", "residue"): quantities.residues,
    ("residue", "number"): quantities.residues,
    ("residue", "residue"): quantities.residues,
    **{("clock", kind): quantities.clocks for kind in ("clock", "number", "formula")},
    **{(kind, "clock"): quantities.clocks for kind in _VALUES},
    ("list", "*"): items,
    **{(gold, "equation"): labelled_items for gold in ("list", "set")},
    ("set", "*"): set_items,
    **{(kind, "set"): only_item for kind in (*_VALUES, "tuple", "equation")},
    ("tuple", "*"): point_or_interval,
    ("tuple", "equation"): labelled_answer,
    ("interval", "*"): interval,
    ("interval", "equation"): labelled_answer,
    ("union", "*"): union,
    ("union", "equation"): labelled_answer,
    ("region", "*"): region,
    ("matrix", "matrix"): parts,
    ("determinant", "determinant"): parts,
    ("matrix", "equation"): labelled_answer,
    **{(gold, "determinant"): quantities.quantity for gold in _VALUES},
}
