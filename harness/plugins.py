"""Plug-ins: credit methods and tasks from a user's own files and modules, and the code that took part in a run.

A file is read once, in the process that the user started. Workers get its text, here and on other machines: all runs
of a sweep are made by the code of that moment, whatever is edited meanwhile.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import ExperimentError

#: Packages whose version or commit a manifest holds already.
SHIPPED = ("flowtracer", "tasks", "leaderboards", "harness")


@dataclass(frozen=True)
class Plugin:
    """A module that a user asked for: its name and, where it was given as a file, the file and its text."""

    module: str
    file: str | None = None
    text: str | None = None


_LOADED: dict[str, Plugin] = {}
#: Folders of theirs that were put on Python's path.
_FOLDERS: list[str] = []


def load(names: Iterable[str], folder: Path | None = None) -> None:
    """Imports files and modules, which register credit methods and tasks. What was imported before is left alone.

    names: paths of .py files, relative to `folder` (default: where the process is), or names of modules.

    Raises ExperimentError for one that cannot be imported, registers nothing, or takes a name that is there.
    """
    for name in names:
        _take(_file((folder or Path()) / name, name) if name.endswith(".py") else Plugin(name))


def loaded() -> tuple[Plugin, ...]:
    """The imports so far, to be handed to `take` in another process."""
    return tuple(_LOADED.values())


def take(plugins: Iterable[Plugin]) -> None:
    """Imports what another process had `loaded`. Raises as `load` does."""
    for plugin in plugins:
        _take(plugin)


def forget() -> None:
    """Takes every plug-in back, its names with it: for a process that runs one command after the other."""
    for registry in _registries():
        for name, kind in list(registry.items()):
            if kind.__module__ in _LOADED:
                del registry[name]
    for module in _LOADED:
        sys.modules.pop(module, None)
    for folder in _FOLDERS:
        sys.path.remove(folder)
    _LOADED.clear()
    _FOLDERS.clear()


def _file(path: Path, name: str) -> Plugin:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise ExperimentError(f"plug-in {name} cannot be read ({reason}): {path.absolute()}") from None
    if not path.stem.isidentifier():
        raise ExperimentError(f"plug-in {name}: {path.stem!r} is no name for a module; rename the file")
    return Plugin(path.stem, str(path.resolve()), text)


def _take(plugin: Plugin) -> None:
    before = _LOADED.get(plugin.module)
    if before is not None:
        if before != plugin:
            raise ExperimentError(
                f"plug-in {plugin.file or plugin.module}: {before.file or before.module} was imported as "
                f"{plugin.module!r} before it; rename one"
            )
        return
    there = [dict(registry) for registry in _registries()]
    shown = Path(plugin.file).name if plugin.file else plugin.module
    try:
        module = _module(plugin, shown)
        _check_use(module, shown)
    except BaseException as error:
        for registry, names in zip(_registries(), there, strict=True):
            registry.clear()
            registry.update(names)
        if plugin.file:
            sys.modules.pop(plugin.module, None)
        if isinstance(error, ExperimentError) or not isinstance(error, (Exception, SystemExit)):
            raise
        raise ExperimentError(f"plug-in {shown}{_described(error, plugin)}") from error
    _LOADED[plugin.module] = plugin


def _check_use(module: ModuleType, shown: str) -> None:
    from flowtracer.credit import CreditMethod
    from tasks import Task

    def offered(name: str) -> bool:
        return name == module.__name__ or name.startswith(f"{module.__name__}.")

    classes = [kind for registry in _registries() for kind in registry.values()]
    classes += [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, (CreditMethod, Task))
    ]
    ours = [kind for kind in classes if offered(kind.__module__)]
    for kind in ours:
        if issubclass(kind, CreditMethod):
            _check_options(kind, shown)
    if not ours:
        raise ExperimentError(
            f"plug-in {shown} registers nothing: put @flowtracer.credit.register before a credit method, or "
            "@tasks.register before a task"
        )


def _check_options(kind: type, shown: str) -> None:
    """Raises ExperimentError for options that are none, and for what every method says of itself made an option.

    Without the decorator no experiment could set an option. With it, each annotated name becomes one: `name` too.
    """
    from flowtracer.credit import CreditMethod

    written = vars(kind).get("__annotations__", {})
    annotated = [name for name, annotation in written.items() if "ClassVar" not in str(annotation)]
    declared = CreditMethod.__annotations__.keys() - {field.name for field in fields(CreditMethod)}
    options = [name for name in annotated if name not in declared]
    if "__dataclass_fields__" not in vars(kind):
        if options:
            raise ExperimentError(
                f"plug-in {shown}: {kind.__qualname__} writes {options[0]!r} as an option and is no dataclass: put "
                "@dataclass(frozen=True) before the class, below @register"
            )
        return
    for name in annotated:
        if name in declared:
            raise ExperimentError(
                f"plug-in {shown}: {kind.__qualname__} makes {name!r} an option by its annotation: write "
                f"`{name} = ...`, or annotate it ClassVar"
            )


def _module(plugin: Plugin, shown: str) -> ModuleType:
    if plugin.file is None or plugin.text is None:
        return importlib.import_module(plugin.module)
    there = None if plugin.module in sys.modules else importlib.util.find_spec(plugin.module)
    # A path may lead to the file itself: a user's PYTHONPATH, or that of the process which started this one.
    itself = (
        there is not None and there.origin is not None and Path(there.origin).resolve() == Path(plugin.file)
    )
    if plugin.module in sys.modules or (there is not None and not itself):
        raise ExperimentError(f"plug-in {shown}: there is another module {plugin.module!r}; rename the file")
    spec = importlib.util.spec_from_loader(plugin.module, loader=None, origin=plugin.file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = plugin.file
    folder = str(Path(plugin.file).parent)
    if folder not in sys.path:
        _FOLDERS.append(folder)
        sys.path.append(folder)  # the last one: it may hold modules beside it, and hides none
    sys.modules[plugin.module] = module
    exec(compile(plugin.text, plugin.file, "exec"), module.__dict__)
    return module


def _described(error: BaseException, plugin: Plugin) -> str:
    """An error of a user's module in a line, behind its name, with the line of the module where it arose."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if plugin.file is not None and trace.tb_frame.f_code.co_filename == plugin.file:
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename == plugin.file:
        line = error.lineno
    words = (str(error).strip().splitlines() or [""])[0]
    if type(error).__name__ == "CreditError" or type(error).__name__ == "TaskError":
        return f": {words}"
    if isinstance(error, ModuleNotFoundError) and plugin.file is None and Path(f"{error.name}.py").is_file():
        words += f"; did you mean the file {error.name}.py?"  # a command's folder is not on Python's path
    return f" fails to import: {type(error).__name__}: {words}" + (
        f" (line {line} of {plugin.file})" if line else ""
    )


def _registries() -> list[dict[str, Any]]:
    from flowtracer.credit import method
    from tasks import problem

    return [method._REGISTRY, problem._REGISTRY]


# ------------------------------------------------------------------------------------- what took part


def parts(kinds: Iterable[type]) -> dict[str, dict[str, Any]]:
    """Hash and text of every module outside these packages that the classes are made of, by the name of its file.

    Their own modules and those of their bases, and what those modules use of other files of the same folder.
    """
    modules: dict[str, dict[str, Any]] = {}
    waiting = [base.__module__ for kind in kinds for base in kind.__mro__]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name.partition(".")[0] in SHIPPED:
            continue
        seen.add(name)
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if module is None or file is None or _of_python(name):
            continue
        plugin = _LOADED.get(name)
        text = plugin.text if plugin and plugin.text is not None else Path(file).read_text(encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        modules[_file_name(name, file)] = {"sha256": digest, "text": text, "imported": plugin is not None}
        waiting += _neighbours(module, text, Path(file).parent)
    return dict(sorted(modules.items()))


def _file_name(module: str, file: str) -> str:
    """`my_package/credit.py` of the module my_package.credit: the same on every machine."""
    folder = module.replace(".", "/")
    return f"{folder}/__init__.py" if Path(file).name == "__init__.py" else f"{folder}.py"


def _of_python(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


def _neighbours(module: ModuleType, text: str, folder: Path) -> list[str]:
    """Modules of the same folder, or below it, that the text of a module imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module.__package__ or ""
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in names}
    return [name for name, file in files.items() if file is not None and folder in Path(file).parents]
