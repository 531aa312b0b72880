"""Manifests: what was run, of whom, and where. `manifest.json` stands in every run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leaderboards.declaration import Declaration
from leaderboards.format import SCHEMA_VERSION, RecordError, read_json

#: Tiers of repetition, the strongest first. BITWISE: on the same CPU model and versions with one thread a worker.
BITWISE, DISTRIBUTION, UNKNOWN = "T0", "T2", "unknown"
TIERS = {
    BITWISE: "bitwise repeatable",
    DISTRIBUTION: "same distribution only",
    UNKNOWN: "made elsewhere, nothing is known of it",
}

_WAY_OUT = "give the folder of a recorded run, or remove this one and run it again"
_KINDS: dict[str, type] = {
    "experiment": dict,
    "experiment_hash": str,
    "method": str,
    "seed": int,
    "versions": dict,
    "hardware": dict,
    "tier": str,
}
#: Parts of the experiment that readers use, where they are there.
_PARTS: dict[str, type] = {
    "name": str,
    "title": str,
    "seeds": int,
    "declaration": dict,
    "policy": dict,
    "task": dict,
    "training": dict,
    "evaluation": dict,
    "methods": dict,
}
_NEEDED = ("experiment", "experiment_hash", "method", "seed", "versions", "hardware", "git_commit", "tier")
_OPTIONAL = ("environment_hash", "batch_invariant", "processes", "credit", "code")


@dataclass(frozen=True)
class Place:
    """Where a run, or a part of it, was made."""

    versions: Mapping[str, str]
    hardware: Mapping[str, Any]
    #: The commit of the source tree; "" without a checkout, ending in "+changes" where it was edited.
    git_commit: str


@dataclass(frozen=True)
class Manifest:
    """The experiment with all its arms, the arm and the seed of this run, and where it was made.

    Keys of the file have the names of the fields. A key that is absent was not known when the run was recorded.
    """

    experiment: Mapping[str, Any] = field(repr=False)
    #: sha256 over the experiment without its arms.
    experiment_hash: str
    #: The label of the arm.
    method: str
    seed: int
    versions: Mapping[str, str] = field(repr=False)
    hardware: Mapping[str, Any] = field(repr=False)
    git_commit: str
    tier: str
    #: sha256 over every installed distribution; whether the engine is batch invariant; processes of one run.
    environment_hash: str | None = None
    batch_invariant: bool | None = None
    processes: int | None = None
    #: The arm's credit method: {"name", "class", "options": every option with its value}.
    credit: Mapping[str, Any] | None = field(default=None, repr=False)
    #: Modules outside the package that took part: file -> {"sha256", "text", "imported": asked for as a plug-in}.
    code: Mapping[str, Any] | None = field(default=None, repr=False)
    #: Where the run went on after a stop, as far as that differs from before.
    resumed: tuple[Place, ...] = ()
    #: Keys of the file that this version does not know: they are written as they were read.
    more: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The experiment's name; "?" where it has none."""
        return str(self.experiment.get("name", "?"))

    @property
    def described(self) -> str:
        """The experiment's name and the beginning of its hash, for messages."""
        return f"{self.name} {self.experiment_hash[:12]}"

    @property
    def task(self) -> str | None:
        """The name of the task that was trained."""
        task = self.experiment.get("task")
        return task.get("name") if isinstance(task, dict) else None

    @property
    def methods(self) -> dict[str, Any]:
        """Every arm of the experiment as this run knew it: label to its options."""
        methods = self.experiment.get("methods")
        return methods if isinstance(methods, dict) else {}

    @property
    def options(self) -> Any:
        """The options of this run's own arm; None where the experiment does not list it."""
        return self.methods.get(self.method)

    @property
    def composition(self) -> str | None:
        """The arm's credit in words where methods were put together, `flow * gtpo (positive)`; else None."""
        record = self.credit or {}
        return str(record["name"]) if str(record.get("class", "")).endswith(":Composed") else None

    @property
    def credit_name(self) -> str:
        """The arm's credit in words: the composition, else the method's name, or the label where none is recorded."""
        options = self.options if isinstance(self.options, dict) else {}
        return self.composition or str(options.get("credit", self.method))

    @property
    def shared(self) -> dict[str, Any]:
        """The experiment without its arms: what runs that can be compared have in common."""
        return {key: value for key, value in self.experiment.items() if key != "methods"}

    @property
    def place(self) -> Place:
        """Where the run began."""
        return Place(self.versions, self.hardware, self.git_commit)

    @property
    def places(self) -> tuple[Place, ...]:
        """Where the run was made: where it began, and where it went on."""
        return (self.place, *self.resumed)

    def declaration(self, folder: Path) -> Declaration:
        """The declaration. RecordError that names the manifest in `folder` where no comparison can follow it."""
        table = self.experiment.get("declaration")
        if not isinstance(table, dict):
            raise RecordError(
                f"{folder / 'manifest.json'}: the declaration is missing; only experiments with one can be compared"
            )
        declaration = Declaration.recorded(table)
        fault = declaration.fault()
        if fault:
            raise RecordError(f"{folder / 'manifest.json'}: {fault}")
        return declaration

    def to_json(self) -> dict[str, Any]:
        """The content of manifest.json."""
        return {
            **{key: getattr(self, key) for key in ("experiment", "experiment_hash", "method", "seed")},
            **_place_to_json(self.place),
            **{key: getattr(self, key) for key in _OPTIONAL if getattr(self, key) is not None},
            "tier": self.tier,
            **self.more,
            **({"resumed": [_place_to_json(place) for place in self.resumed]} if self.resumed else {}),
            "schema_version": SCHEMA_VERSION,
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any], path: Path) -> Manifest:
        """The manifest that a file holds. RecordError that names `path` for a missing key or one of another type."""
        absent = [key for key in _NEEDED if key not in table]
        if absent:
            raise RecordError(f"{path}: lacks {', '.join(absent)}; {_WAY_OUT}")
        _check_types(table, _KINDS, "", path)
        experiment = table["experiment"]
        _check_types(experiment, _PARTS, "experiment.", path)
        for key in ("policy", "task"):
            _check_types(experiment.get(key, {}), {"name": str}, f"experiment.{key}.", path)
        known: dict[str, Any] = {key: table.get(key) for key in _OPTIONAL}
        read = {*_NEEDED, *_OPTIONAL, "resumed", "schema_version"}
        return cls(
            **{key: table[key] for key in _KINDS},
            git_commit=table["git_commit"] or "",
            **known,
            resumed=tuple(_place_from_json(place) for place in table.get("resumed", ())),
            more={key: value for key, value in table.items() if key not in read},
        )

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in a run's folder. RecordError for one that is missing or cannot be read."""
        path = folder / "manifest.json"
        return cls.from_json(read_json(path, _WAY_OUT), path)


def _check_types(table: Mapping[str, Any], kinds: Mapping[str, type], place: str, path: Path) -> None:
    """Raises RecordError that names `path` for the first value that is there and of another type."""
    for key, kind in kinds.items():
        if key in table and not isinstance(table[key], kind):
            value = str(table[key])[:40]
            raise RecordError(f"{path}: {place}{key} is {value!r}, not of type {kind.__name__}; {_WAY_OUT}")


def weakest(tiers: Sequence[str]) -> str:
    """The tier that a comparison of runs of these tiers has; one that this version does not know counts as unknown."""
    order = list(TIERS)
    return max((tier if tier in TIERS else UNKNOWN for tier in tiers), key=order.index)


def _place_to_json(place: Place) -> dict[str, Any]:
    return {
        "versions": dict(place.versions),
        "hardware": dict(place.hardware),
        "git_commit": place.git_commit,
    }


def _place_from_json(table: Mapping[str, Any]) -> Place:
    # Versions of before a key was recorded wrote null.
    return Place(table.get("versions") or {}, table.get("hardware") or {}, table.get("git_commit") or "")
