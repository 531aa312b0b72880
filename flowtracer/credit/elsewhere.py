"""Credit methods that are not of this package: those of others, and those that were left out, with their reason.

Others': entry points of installed packages, and a class named as `module:Class`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterator
from typing import Any

from flowtracer.errors import CreditError

#: Published methods that are left out, by the name that one would ask for, and why.
LEFT_OUT = {
    "fipo": (
        "FIPO (arXiv 2603.19835) weighs a token by exp of the discounted sum of the later tokens' log-probability "
        "changes since the batch was sampled, clipped to 1 to 1.2: its weights are 1 on a batch's first update and "
        "change with each further one, while credit here is computed once a rollout and stays, so that the record "
        "holds what was trained with"
    ),
}


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
