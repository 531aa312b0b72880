"""A traced response."""


class Trace: ...


def trace() -> None: ...
