"""The error that a user of the harness can cause, and mend."""

from __future__ import annotations

import errno


class ExperimentError(ValueError):
    """A user's mistake about a policy, an experiment or a run: one line that names input and way out."""


#: The errors of a disk that takes no more.
_FULL, _REFUSES = (errno.ENOSPC, errno.EDQUOT), (errno.EFBIG, errno.EROFS)
#: The same in the words of safetensors and of torch, which raise errors of their own.
_FULL_WORDS = (
    "No space left",
    "quota exceeded",
    "File too large",
    "file write failed",
    "PytorchStreamWriter",
)


def no_room(error: BaseException) -> str | None:
    """Why a file could not be written, with its name, where the disk is full or takes none; None for other errors."""
    if isinstance(error, OSError):
        place = f" while writing {error.filename}" if error.filename else ""
        if error.errno in _FULL:
            return f"the disk is full{place}"
        return f"{error.strerror}{place}" if error.errno in _REFUSES else None
    first = (str(error).splitlines() or [""])[0]
    return f"the disk is full ({first})" if any(words in first for words in _FULL_WORDS) else None
