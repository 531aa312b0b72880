"""Protects the names of what differs where runs of one arm were made by different code."""

from leaderboards import code
from tests.leaderboards.recorded_runs import manifest

ONE, OTHER = "1a2b3c4d" * 8, "9f0e1d2c" * 8


def of(method, seed, digest=ONE, **options):
    return manifest(
        method,
        seed,
        credit={"name": method, "class": "x:Y", "options": options},
        code={"my_credit.py": {"sha256": digest, "text": ""}},
    )


def test_modules_and_options_that_differ_are_named():
    assert code.differences(None, {"a.py": {"sha256": ONE}}) == []  # nothing is known of an old record
    assert code.differences({}, {"a.py": {"sha256": ONE}}) == ["a.py absent -> 1a2b3c4d"]
    assert code.changes(of("mine", 0), of("mine", 1)) == []
    changed = code.changes(of("mine", 0, gamma=1.0), of("mine", 0, OTHER, gamma=2.0, top=True))
    assert changed == ["my_credit.py 1a2b3c4d -> 9f0e1d2c", "gamma 1.0 -> 2.0", "top absent -> true"]


def test_a_mixture_is_one_arm_by_two_codes():
    runs = [
        of("mine", 2, OTHER),
        of("mine", 0),
        of("mine", 1, OTHER),
        of("flow", 0, OTHER),
        of("flow", 1, OTHER),
    ]
    assert list(code.mixtures(runs)) == [("mine", [1, 2], ["my_credit.py 1a2b3c4d -> 9f0e1d2c"])]
    assert code.runs_by_other_code(3, ["a -> b"]) == "3 finished runs were made by other code: a -> b"
    assert not list(code.mixtures([manifest("mine", 0), of("mine", 1)]))
