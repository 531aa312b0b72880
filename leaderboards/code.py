"""Code of a user's own in runs: the modules that took part, by hash, and in what two runs of one arm differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leaderboards.manifest import Manifest  # and not pyarrow, for a list of experiments

Record = Mapping[str, Any] | None


def differences(before: Record, now: Record) -> list[str]:
    """In what two records of modules differ: `my_credit.py 1a2b3c4d -> 9f0e1d2c` for each; none where one is unknown.

    before, now: the `code` of manifests, file name -> {"sha256": ..., "text": ...}.
    """
    lines: list[str] = []
    if before is None or now is None:
        return lines
    for name in sorted({*before, *now}):
        old, new = (str(record.get(name, {}).get("sha256", ""))[:8] for record in (before, now))
        if old != new:
            lines.append(f"{name} {old or 'absent'} -> {new or 'absent'}")
    return lines


def _options(before: Record, now: Record) -> list[str]:
    """Options that differ between two records of one credit method: `gamma 1.0 -> 2.0`."""
    if before is None or now is None:
        return []
    values = [record.get("options", {}) for record in (before, now)]
    shown = [
        tuple(json.dumps(table[name]) if name in table else "absent" for table in values)
        for name in sorted({*values[0], *values[1]})
    ]
    names = sorted({*values[0], *values[1]})
    return [f"{name} {old} -> {new}" for name, (old, new) in zip(names, shown, strict=True) if old != new]


def changes(before: Manifest, now: Manifest) -> list[str]:
    """In what two runs of one arm differ that should be one method: modules, and resolved options."""
    return [*differences(before.code, now.code), *_options(before.credit, now.credit)]


def mixtures(manifests: Iterable[Manifest]) -> Iterator[tuple[str, list[int], list[str]]]:
    """Arms whose runs were made by different code: label, the seeds that differ from the lowest seed's run, and how."""
    arms: dict[str, list[Manifest]] = {}
    for manifest in sorted(manifests, key=lambda each: (each.method, each.seed)):
        arms.setdefault(manifest.method, []).append(manifest)
    for label, (first, *others) in arms.items():
        apart = [(each.seed, lines) for each in others if (lines := changes(first, each))]
        if apart:
            lines = list(dict.fromkeys(line for _, of_run in apart for line in of_run))
            yield label, [seed for seed, _ in apart], lines


def runs_by_other_code(count: int, lines: Iterable[str]) -> str:
    """`3 finished runs were made by other code: my_credit.py 1a2b3c4d -> 9f0e1d2c`."""
    return f"{count} finished run{'s were' if count != 1 else ' was'} made by other code: {', '.join(lines)}"
