"""The error that a user of the harness can cause, and mend."""


class ExperimentError(ValueError):
    """A user's mistake about a policy, an experiment or a run: one line that names input and way out."""
