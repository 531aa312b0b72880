"""What the harness's tests share: the tiny experiment, on one thread as in a sweep's workers."""

import pytest
import torch

from harness import experiment as experiments
from tests.harness import tiny


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The number of threads decides the last bits of a sum."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny_experiment():
    """`tests.harness.tiny.table`, built."""

    def build(*arguments, **changes):
        return experiments.from_table(tiny.table(*arguments, **changes), "tiny")

    return build
