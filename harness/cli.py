"""The command line: `flowtracer COMMAND`. A user's mistake is one line on standard error and exit status 2."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from harness import surroundings

if __name__ == "__main__":
    surroundings.leave_current_folder()
surroundings.check_packages()  # before the imports that a module of the user's would break

from harness import plugins  # noqa: E402
from harness.commands import (  # noqa: E402
    causes,
    claims,
    completion,
    experiments,
    graphs,
    items,
    methods,
    noise,
    policies,
    problems,
    profile,
    records,
    values,
)
from harness.commands.shared import MISTAKE, STOPPED, say  # noqa: E402
from harness.errors import ExperimentError, no_room  # noqa: E402
from leaderboards.names import hint  # noqa: E402

#: The files of the commands, in the order of the help.
SUBJECTS = (
    experiments,
    noise,
    methods,
    records,
    items,
    claims,
    policies,
    causes,
    graphs,
    values,
    profile,
    problems,
    completion,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit status."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # not a warning for each retry where there is no hub
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    surroundings.prepare_streams()
    surroundings.stop_on_sigterm()
    try:
        options = _parser().parse_args(arguments)
        options.typed = list(sys.argv[1:] if arguments is None else arguments)
        plugins.load(options.imports)
        return int(options.run(options) or 0)
    except KeyboardInterrupt:
        return say("stopped", STOPPED)
    except BrokenPipeError:
        # The reader of a pipe, `head` for one, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (line := surroundings.without_extra(error)):
            return say(line, MISTAKE)
        if _is_mistake(error):
            return say(str(error), MISTAKE)
        if _is(error, {"OutOfMemoryError"}):  # torch's, which only some commands import
            way_out = (
                "ask for fewer or shorter responses at once, or set CUDA_VISIBLE_DEVICES= to take the CPU"
            )
            return say(f"the GPU's memory is full: {str(error).splitlines()[0]}; {way_out}", MISTAKE)
        if full := no_room(error):
            return say(f"{full}: free some space and run the same command again", MISTAKE)
        raise


def _is_mistake(error: Exception) -> bool:
    """True for an error of the packages' own for a user's mistake, whichever of them were imported."""
    return _is(error, {"ExperimentError", "TaskError", "RecordError", "CreditError"})


def _is(error: Exception, names: set[str]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


class _Parser(argparse.ArgumentParser):
    """A wrong option is one line, as every other mistake is."""

    def error(self, message: str) -> NoReturn:
        raise ExperimentError(f"{_shorter(message)}; see {self.prog} --help")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does, but a command's own parser names the options that it does not know."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            wrong = next((name for name in unknown if name.startswith("-")), unknown[0])
            close = f"; {hint(wrong.partition('=')[0], self.known())}" if wrong.startswith("--") else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{close}")
        return options, unknown

    def known(self) -> list[str]:
        """The names of its options."""
        return [name for action in self._actions for name in action.option_strings]


class _Program(_Parser):
    """The parser in front of the commands: it says where an option of theirs stands."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        given = sys.argv[1:] if args is None else list(args)
        if given and given[0].startswith("--"):
            name = given[0].partition("=")[0]
            if not any(option.startswith(name) for option in self.known()):
                self.error(f"{name} goes behind the command: flowtracer COMMAND {name}")
        return super().parse_known_args(args, namespace)


def _shorter(message: str) -> str:
    """A message of argparse's as ours are: `--problems 0: give at least 1`.

    It lists every choice; where one is close, it is the one that was meant.
    """
    if counted := re.match(r"argument (--\S+): (\S+: give .*)$", message):
        return f"{counted[1]} {counted[2]}"
    refused = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)$", message)
    if refused is None:
        return message
    choices = re.findall(r"[\w.-]+", refused[2])
    return f"{message[: refused.start()]}invalid choice: {refused[1]!r}; {hint(refused[1], choices)}"


class _Version(argparse.Action):
    """Prints the versions that a result depends on; they are looked up only when they are asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from harness import provenance

        versions = provenance.versions()
        commit = provenance.git_commit()
        print(f"flowtracer {versions['flowtracer']}" + (f", commit {commit}" if commit else ""))
        print(", ".join(f"{name} {version}" for name, version in versions.items() if name != "flowtracer"))
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Program(
        prog="flowtracer", description="Check token-level credit methods for GRPO, on the same seeds."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print versions and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for subject in SUBJECTS:
        subject.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
