"""Versions of the libraries that flowtracer hooks into, checked when it is imported.

The attention tap and the trainer rely on private parts of transformers and TRL (`flowtracer.seam` lists them). pip
checks versions when it installs flowtracer, and not again when something else is installed later. `pyproject.toml`
holds the same ranges.
"""

from __future__ import annotations

import importlib.metadata
import re
import warnings
from collections.abc import Mapping, Sequence

Version = tuple[int, int]

#: Minor versions that the tests passed with, oldest first: `nox -s tests_versions` runs the ends.
TESTED: Mapping[str, Sequence[Version]] = {
    "torch": [(2, 11), (2, 12), (2, 13), (2, 14), (2, 15)],
    "transformers": [(5, minor) for minor in range(17, 25)],
    "trl": [(1, 14), (1, 16)],
}
#: Versions between the tested ones that do not work, and why.
BROKEN: Mapping[tuple[str, Version], str] = {
    ("trl", (1, 15)): "its loss calls a Triton kernel that fails on a CPU where triton is installed",
}


class VersionWarning(UserWarning):
    """A library is newer than every version that flowtracer was tested with."""


def check() -> None:
    """Raises ImportError for a library that is too old or known to fail, and names the nearest version that works.

    A library newer than all tested ones is a `VersionWarning`: it may work, and `tests/flowtracer/test_seam.py` tells
    what moved. A library that is not installed is left to the import that needs it.
    """
    for name, tested in TESTED.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        number = _minor(installed)
        if number in tested:
            continue
        nearest = min(tested, key=lambda works: (abs(_place(works) - _place(number)), works < number))
        way_out = f"pip install '{name}=={nearest[0]}.{nearest[1]}.*'"
        if number > tested[-1]:
            last = f"{tested[-1][0]}.{tested[-1][1]}"
            warnings.warn(
                f"{name} {installed} is newer than what flowtracer was tested with, at most {last}; "
                f"if something fails: {way_out}",
                VersionWarning,
                stacklevel=3,
            )
        else:
            reason = BROKEN.get((name, number), "flowtracer was never tested with it")
            raise ImportError(f"{name} {installed} does not work with flowtracer: {reason}; {way_out}")


def _minor(version: str) -> Version:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def _place(version: Version) -> int:
    return 1000 * version[0] + version[1]
