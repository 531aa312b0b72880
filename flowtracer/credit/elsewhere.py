"""Credit methods of other packages: entry points of installed ones, and a class named as `module:Class`."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterator
from typing import Any

from flowtracer.errors import CreditError


def offers(group: str) -> Iterator[Any]:
    """The offers of installed packages under the entry points `group`: classes, or modules that register theirs.

    Raises CreditError that names the package whose offer does not import.
    """
    for point in importlib.metadata.entry_points(group=group):
        try:
            yield point.load()
        except CreditError:
            raise
        except Exception as error:
            package = point.dist.name if point.dist else point.value
            raise CreditError(
                f"the installed package {package} offers {point.name} = {point.value} under {group}, which does not "
                f"import ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}): mend it, or "
                f"pip uninstall {package}"
            ) from error


def named(name: str) -> Any:
    """The class that `module:Class` names. Raises CreditError where the module does not import or has no such class."""
    module, _, attribute = name.partition(":")
    try:
        value = getattr(importlib.import_module(module), attribute, None)
    except CreditError:
        raise
    except Exception as error:
        raise CreditError(
            f"credit {name!r}: the module {module!r} does not import ({type(error).__name__}: {error}): name its "
            f"file, by --import {module}.py or imports in the experiment file, or put it on PYTHONPATH"
        ) from error
    if not isinstance(value, type):
        raise CreditError(f"credit {name!r}: the module {module!r} has no class {attribute!r}")
    return value
