"""Protects the known truth: values, needed steps, the first wrong step, and where every token comes from."""

import random

import pytest

import tasks
from tasks import Verdict
from tasks.graph import ROLES, Graph, System, worked

QUESTION = "b=a+3;d=c*2;a=4;c=b+a;e=a*7?d"
RIGHT = "a=4;b=a+3=4+3=7;c=b+a=7+4=1;d=c*2=1*2=2#2"


@pytest.fixture
def task() -> Graph:
    built = tasks.get("graph")
    assert isinstance(built, Graph)
    return built


def asked(task, question=QUESTION):
    return task.problem_from(question, System(question).value(question[-1]))


def test_values_and_needs_follow_the_definitions():
    system = System(QUESTION)
    assert {name: system.value(name) for name in "abcde"} == {"a": 4, "b": 7, "c": 1, "d": 2, "e": 8}
    assert system.needed == set("abcd") and system.asked == "d"


def test_the_worked_response_is_right(task):
    assert worked(QUESTION, "abcd") == RIGHT
    assert task.verify(asked(task), RIGHT) is Verdict.CORRECT
    steps = task.steps(asked(task), RIGHT)
    assert [(step.variable, step.right, step.needed, step.workable) for step in steps] == [
        (name, True, True, True) for name in "abcd"
    ]
    assert [RIGHT[step.start : step.end] for step in steps] == RIGHT.partition("#")[0].split(";")
    assert task.first_wrong(asked(task), RIGHT) is None


def test_a_skipped_step_is_a_guess_and_the_first_wrong_one_is_found(task):
    text = "a=4;e=a*7=4*7=8;c=b+a=0+4=4;d=c*2=4*2=8#8"
    assert task.verify(asked(task), text) is Verdict.WRONG
    steps = task.steps(asked(task), text)
    assert [step.needed for step in steps] == [True, False, True, True]
    assert [step.workable for step in steps] == [True, True, False, True]
    assert [step.right for step in steps] == [True, True, False, False]
    assert task.first_wrong(asked(task), text).variable == "c"
    assert all(step.faithful for step in steps)  # a guess is no slip
    # The guessed operand has no source; its sum has three.
    sources = named(task, text)
    start = text.index("c=")
    assert start + 6 not in sources
    assert sources[start + 10] == ["response 0", "response +", "response 4"]


@pytest.mark.parametrize(
    "slip",
    [
        "a=5",  # not the prompt's value
        "a=b+3=4+3=7",  # not the prompt's definition
        "a=4;b=a+4=4+4=8",  # a definition restated wrong
        "a=4;b=a+3=5+3=8",  # not the value that was stated
        "a=4;b=a+3=4+2=6",  # not the number of the definition
        "a=4;b=a+3=4*3=2",  # not its operation
        "a=4;b=a+3=4+3=8",  # a wrong sum
        "h=4",  # not in the prompt
    ],
)
def test_slips_of_the_mechanics_are_seen(task, slip):
    steps = task.steps(asked(task), f"{slip}#1")
    assert [step.faithful for step in steps] == [True] * (len(steps) - 1) + [False]


def test_every_known_token_has_a_role(task):
    before = len(QUESTION)
    roles = task.roles(asked(task), RIGHT)
    assert set(roles) == set(task.sources(asked(task), RIGHT)) and set(roles.values()) == set(ROLES)
    start = before + RIGHT.index("c=b+a")
    assert [roles[start + offset] for offset in (2, 3, 4, 6, 7, 8, 10)] == [
        *["definition"] * 3,
        *("operand", "restated", "operand"),
        "result",
    ]
    assert roles[before + RIGHT.index("a=4") + 2] == "definition"
    assert roles[before + RIGHT.index("*2=2#") + 1] == "restated"
    assert roles[before + len(RIGHT) - 1] == "answer"


def named(task, text, question=QUESTION):
    """Position in the response -> its sources, as what stands where."""
    whole, before = question + text, len(question)
    return {
        token - before: [f"{'prompt' if at < before else 'response'} {whole[at]}" for at in places]
        for token, places in task.sources(asked(task, question), text).items()
    }


def test_every_copied_and_computed_token_names_its_sources(task):
    sources = named(task, RIGHT)
    assert sources[RIGHT.index("a=4") + 2] == ["prompt 4"]
    start = RIGHT.index("c=b+a")
    assert [sources[start + offset] for offset in (2, 3, 4)] == [["prompt b"], ["prompt +"], ["prompt a"]]
    assert [sources[start + offset] for offset in (6, 7, 8)] == [
        ["response 7"],
        ["response +"],
        ["response 4"],
    ]
    assert sources[start + 10] == ["response 7", "response +", "response 4"]
    assert sources[len(RIGHT) - 1] == ["response 2"]
    # The value of b comes from b's own step, not from any other 7.
    whole, before = QUESTION + RIGHT, len(QUESTION)
    places = task.sources(asked(task), RIGHT)
    assert places[before + start + 6] == [before + RIGHT.index("=7;") + 1]
    # Sources come before what they explain, and the tokens that every response has are left out.
    assert all(place < token for token, many in places.items() for place in many)
    assert {whole[token] for token in places}.isdisjoint("=;#")


def test_decisive_tokens_open_the_steps(task):
    assert [RIGHT[start:end] for start, end in task.decisive(RIGHT)] == list("abcd")
    assert task.decisive("") == [] and task.decisive("a=4;") == [(0, 1)]


def test_demonstrations_are_right_in_their_mechanics_and_leave_the_plan_to_chance(task):
    pairs = task.demonstrations(400, "test")
    assert pairs == task.demonstrations(400, "test") != task.demonstrations(400, "other")
    held_out = {problem.question for problem in task.problems("test")}
    right = workable = steps = 0
    for question, text in pairs:
        assert question not in held_out
        problem = asked(task, question)
        right += task.verify(problem, text) is Verdict.CORRECT
        for step in task.steps(problem, text):
            assert step.faithful
            steps, workable = steps + 1, workable + step.workable
            stated = text[step.start : step.end].split("=")
            assert stated[1] == System(question).definitions[step.variable]
            if len(stated) == 4:
                left, sign, other = stated[2]
                assert (
                    int(stated[3]) == (int(left) + int(other) if sign == "+" else int(left) * int(other)) % 10
                )
        span = task.extract(text)
        assert span is not None and text[span[0]] == text[task.steps(problem, text)[-1].value]
    assert 0.3 < right / 400 < 0.7
    assert 0.6 < workable / steps < 0.95


def test_a_complete_demonstration_is_right(task):
    source = random.Random(1)
    for _ in range(50):
        question, text = task.demonstration(source, skipped=0.0)
        assert task.verify(asked(task, question), text) is Verdict.CORRECT


def test_problems_are_distinct_and_need_some_but_not_all(task):
    train, test = task.problems("train"), task.problems("test")
    assert (len(train), len(test)) == (8192, 512)
    assert len({problem.question for problem in [*train, *test]}) == 8704
    for problem in test:
        system = System(problem.question)
        assert 3 <= len(system.needed) < len(system.definitions) <= 6
        assert problem.gold == str(system.value(system.asked))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "#2",
        "a=4",
        "a=4;#2",
        "a=4#22",
        "a=4#2 ",
        "a=4#2#2",
        "d=c*2=1*2#2",
        "d=c*2=1*2=2;2#2",
        "x=4#2",
    ],
)
def test_other_forms_mark_no_answer(task, text):
    assert task.verify(asked(task), text) is Verdict.NO_ANSWER
    assert task.verify(asked(task), text, "length") is Verdict.TRUNCATED


def test_steps_of_undefined_variables_and_cut_responses_are_no_trap(task):
    problem = asked(task)
    (step,) = task.steps(problem, "h=4#4")
    assert (step.right, step.needed, step.workable) == (False, False, False)
    assert task.sources(problem, "h=4#4") == {}
    assert task.steps(problem, "a=4;b=a+3=4+")[-1].variable == "a"
    assert task.steps(problem, "") == [] and task.sources(problem, "") == {}


def test_a_wrong_gold_is_named(task):
    with pytest.raises(tasks.TaskError, match="one digit"):
        task.problem_from(QUESTION, "12")
    with pytest.raises(tasks.TaskError, match="no split 'dev'"):
        task.problems("dev")
