"""The one error that a user's mistake about credit raises."""


class CreditError(ValueError):
    """A mistake in a model, a map, a span or an option: one line that names the input and the way out."""
