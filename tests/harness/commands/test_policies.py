"""Protects `trace`: an option that nothing would come of is refused, with the way out."""

import pytest

from harness import cli
from harness.commands import policies


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--from", "runs", "--problem", "3"], "--problem does not go with --from"),
        (["--from", "runs", "--max-response-tokens", "9"], "--max-response-tokens does not go with --from"),
        (["--from", "runs", "--question", "Why?"], "--question does not go with --from"),
        (["--from", "runs", "--response", "So."], "--response does not go with --from"),
        (["--row", "0"], "--row 0 goes with --from PLACE"),
        (["--problem", "0", "--question", "Why?"], "--problem 0 asks a test problem, and --question another"),
        (["--response", "So.", "--max-response-tokens", "9"], "and --response gives one; leave out one"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words, capsys, monkeypatch):
    for name in ("_trace_given", "_trace_sampled"):
        monkeypatch.setattr(policies, name, lambda options: pytest.fail("it was taken"))
    assert cli.main(["trace", *options]) == 2
    printed = capsys.readouterr()
    assert words in printed.err and printed.err.count("\n") == 1 and not printed.out
