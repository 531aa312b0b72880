"""completion: what a shell needs to complete commands, options and names."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial

from harness.commands.shared import (
    ARMS,
    EXPERIMENTS,
    METHODS,
    POLICIES,
    TASKS,
    Commands,
    command,
    kinds_of,
)

BASH, ZSH, FISH = SHELLS = ("bash", "zsh", "fish")

Parsers = Mapping[str, argparse.ArgumentParser]


def add(commands: Commands) -> None:
    """Adds this command."""
    added = command(
        commands,
        "completion",
        partial(_completion, commands),
        "Print what completes commands, options and names in a shell: put it where your shell looks for completions.",
    )
    added.add_argument("shell", choices=SHELLS, help='for bash: eval "$(flowtracer completion bash)"')


def _completion(commands: Commands, options: argparse.Namespace) -> int:
    parsers: Parsers = dict(commands.choices)
    names = _names()
    print(_fish(parsers, names) if options.shell == FISH else _bash(parsers, names, options.shell))
    return 0


def _names() -> dict[str, list[str]]:
    """The names of each kind, as they are registered now."""
    import tasks
    from flowtracer import credit
    from harness import experiment
    from harness.policy import SHIPPED, SMOLLM2

    arms = {label for name in experiment.names() for label in experiment.load(name).methods}
    return {
        EXPERIMENTS: experiment.names(),
        ARMS: sorted(arms),
        METHODS: list(credit.names()),
        TASKS: list(tasks.names()),
        POLICIES: [*SHIPPED, SMOLLM2],
    }


def _values(action: argparse.Action, names: Mapping[str, list[str]]) -> list[str]:
    """The values that an argument of a command may have, as far as they have names."""
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    return [name for kind in kinds_of(action) for name in names[kind]]


def _bash(parsers: Parsers, names: Mapping[str, list[str]], shell: str) -> str:
    """A function for bash; zsh takes it by its own emulation."""
    after, words = [], []
    for name, parser in parsers.items():
        options: list[str] = []
        positional: list[str] = []
        for action in parser._actions:
            values = " ".join(_values(action, names))
            if not action.option_strings:
                positional.append(values)
                continue
            options += action.option_strings
            if values:
                places = "|".join(f'"{name} {option}"' for option in action.option_strings)
                after.append(f'    {places}) words="{values}" ;;')
            elif action.nargs != 0:
                places = "|".join(f'"{name} {option}"' for option in action.option_strings)
                after.append(f"    {places}) return ;;")  # a file, or a value without a name
        words.append(f'    {name}) words="{" ".join([*options, *positional])}" ;;')
    first = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n" if shell == ZSH else ""
    return f"""{first}_flowtracer() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" name="${{COMP_WORDS[1]}}" words=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(parsers)} --help --version" -- "$cur"))
    return
  fi
  case "$name $prev" in
{chr(10).join(after)}
  esac
  if [ -z "$words" ]; then
    case "$name" in
{chr(10).join(f"  {line}" for line in words)}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _flowtracer flowtracer"""


def _fish(parsers: Parsers, names: Mapping[str, list[str]]) -> str:
    lines = []
    for name, parser in parsers.items():
        about = (parser.description or "").replace("'", "\\'")
        lines.append(f"complete -c flowtracer -n __fish_use_subcommand -f -a {name} -d '{about}'")
        inside = f"complete -c flowtracer -n '__fish_seen_subcommand_from {name}'"
        for action in parser._actions:
            values = " ".join(_values(action, names))
            if not action.option_strings:
                lines += [f"{inside} -a '{values}'"] * bool(values)
                continue
            shown = " ".join(
                f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
                for option in action.option_strings
            )
            takes = f" -x -a '{values}'" if values else " -r" if action.nargs != 0 else ""
            lines.append(f"{inside} {shown}{takes}")
    return "\n".join(lines)
