"""An unknown name is answered with the one that was probably meant, or with all that there are."""

from leaderboards.names import hint


def test_the_nearest_name_or_all_of_them() -> None:
    assert hint("flwo", ["uniform", "flow"]) == "did you mean 'flow'?"
    assert hint("ppo", ["uniform", "flow"]) == "known: uniform, flow"
    assert hint("x", (name for name in ())) == "known: "
