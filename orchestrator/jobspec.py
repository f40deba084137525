"""JobSpec: what the user wants to run, read strictly from a job file or made from a command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Optional, Union

from orchestrator import strictyaml
from orchestrator.errors import SpecError, nearest

Scalar = Union[bool, int, float, str, None]  # what `config:` may hold

_MOST_ENTRIES = 10_000
_BACKENDS = ("auto", "ascend", "cpu")
_FRAMEWORKS = ("mindspore",)
ON_HOST_LOST = ("wait", "replace", "shrink")
# What a run can end by: as verdict.py finds it.
CAUSES = (
    "device",
    "disk_full",
    "ended_early",
    "exception",
    "exit_code",
    "hang",
    "hang_in_collective",
    "host_lost",
    "import_error",
    "lost",
    "nan_loss",
    "out_of_memory",
    "port_taken",
    "preempted",
    "signal",
    "unknown",
    "user_error",
)
RENDEZVOUS = ("auto", "rank-table", "cluster")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class DatasetSpec:
    """The dataset that a job needs; it is handed over as `--dataset_path`."""

    layout: str  # a key of datasets.LAYOUTS, checked before anything starts

    __pydantic_config__: ClassVar[dict[str, Any]] = strictyaml.STRICT


@dataclass(frozen=True)
class EvaluationSpec:
    """How checkpoints of the job are evaluated: `python -m MODULE --checkpoint_path=… --dataset_path=…`."""

    module: str
    config: Mapping[str, Scalar] = field(default_factory=dict)  # on top of the job's own config

    __pydantic_config__: ClassVar[dict[str, Any]] = strictyaml.STRICT


@dataclass(frozen=True)
class ModuleSpec:
    """Another module of the job, run by itself on this terminal, with the keys of its own config only."""

    module: str
    config: Mapping[str, Scalar] = field(default_factory=dict)

    __pydantic_config__: ClassVar[dict[str, Any]] = strictyaml.STRICT


@dataclass(frozen=True)
class RestartSpec:
    """When a failed run is started again from its newest whole checkpoint. Raises SpecError for what cannot be."""

    max_restarts: int = 3
    backoff_s: float = 1.0  # before a restart; doubled with each attempt in a row that brought no new checkpoint
    most_backoff_s: float = 300.0
    causes: Optional[tuple[str, ...]] = None  # to restart for; None: those that another try may not meet again
    without_checkpoint: int = 3  # attempts in a row without a new checkpoint, after which it is no use
    same_failure: int = 5  # attempts in a row that end the same way at the same place
    on_host_lost: str = "wait"  # wait: until it answers; replace: take a spare; shrink: go on without it
    host_lost_after_s: float = 60.0  # of silence, to replace or shrink
    lease_s: Optional[float] = None  # ranks end when nobody has watched for so long; None: they outlive us

    __pydantic_config__: ClassVar[dict[str, Any]] = strictyaml.STRICT

    def __post_init__(self) -> None:
        _one_of("restart: on_host_lost", self.on_host_lost, ON_HOST_LOST)
        for cause in self.causes or ():
            _one_of("restart: causes", cause, CAUSES)
        for name, least in (("max_restarts", 0), ("without_checkpoint", 1), ("same_failure", 1)):
            if not least <= getattr(self, name) <= 1_000_000:
                raise SpecError(f"restart: {name} {getattr(self, name)}: give a whole number from {least}")
        for name, shortest in (
            ("backoff_s", 0.0),
            ("most_backoff_s", 0.0),
            ("host_lost_after_s", 1.0),
            ("lease_s", 10.0),
        ):
            value = getattr(self, name)
            if value is not None and not shortest <= value <= 30 * 86_400:
                raise SpecError(f"restart: {name} {value}: give seconds, from {shortest:g} to 30 days")


# The fields of a job that have fields of their own.
_NOUNS: "dict[str, Any]" = {
    "dataset": DatasetSpec,
    "evaluation": EvaluationSpec,
    "export": ModuleSpec,
    "predict": ModuleSpec,
    "restart": RestartSpec,
}


@dataclass(frozen=True)
class JobSpec:
    """One job. Exactly one of *module* and *command* says what each rank runs.

    Raises SpecError where the fields do not make a job.
    """

    name: str
    description: str = ""
    module: Optional[str] = None  # run as `python -m MODULE --key=value …` with the keys of config
    command: Optional[tuple[str, ...]] = None  # any program and its arguments
    devices: Union[int, str] = 1  # as `--devices`
    backend: str = "auto"  # auto | ascend | cpu
    framework: Optional[str] = None  # mindspore: its scheduler process is started with the ranks
    rendezvous: str = "auto"  # how MindSpore's ranks meet: auto | rank-table | cluster
    config: Mapping[str, Scalar] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)  # for every rank
    dataset: Optional[DatasetSpec] = None
    evaluation: Optional[EvaluationSpec] = None
    export: Optional[ModuleSpec] = None  # gets --checkpoint_path --file_format --file_name --dataset_path --force
    predict: Optional[ModuleSpec] = None  # gets --model --top --dataset_path --json and pictures; prints JSON lines
    working_directory: Optional[str] = None  # None: each rank's own work folder
    log_patterns: Optional[tuple[str, ...]] = None  # None: MindSpore's own lines
    compile_cache: bool = False  # share MindSpore's compiled graphs with later runs of the same job and config
    grace_s: float = 10.0  # seconds between SIGTERM and SIGKILL
    hang_after: Optional[float] = None  # s of silence after which a rank hangs; 0: never; None: learned from the run
    health_every: Optional[float] = None  # s between two looks at the devices; 0: none; None: 30
    restart: Optional[RestartSpec] = None  # None: a failed run stays as it is

    __pydantic_config__: ClassVar[dict[str, Any]] = strictyaml.STRICT

    def __post_init__(self) -> None:
        check_name(self.name, "name")
        if (self.module is None) == (self.command is None):
            raise SpecError("a job says either `module:` (a Python module) or `command:` (a list), and not both")
        if self.command is not None and not self.command:
            raise SpecError("`command:` is empty")
        if self.command is not None and self.config:
            raise SpecError("`config:` goes with `module:`; a `command:` carries its arguments itself")
        _one_of("backend", self.backend, _BACKENDS)
        if self.framework is not None:
            _one_of("framework", self.framework, _FRAMEWORKS)
        _one_of("rendezvous", self.rendezvous, RENDEZVOUS)
        if not 0 <= self.grace_s <= 86_400:
            raise SpecError(f"grace_s {self.grace_s}: give seconds from 0 to 86400")
        if self.hang_after is not None and not 0 <= self.hang_after <= 604_800:
            raise SpecError(f"hang_after {self.hang_after}: give seconds from 0 (never) to 604800")
        if self.health_every not in (None, 0) and not 1 <= self.health_every <= 86_400:
            raise SpecError(f"health_every {self.health_every}: give seconds from 1 to 86400, or 0 (never)")
        for pattern in self.log_patterns or ():
            try:
                groups = re.compile(pattern).groupindex
            except re.error as exc:
                raise SpecError(f"log_patterns: {pattern!r} is not a regular expression: {exc}") from exc
            if not groups:
                raise SpecError(f"log_patterns: {pattern!r} names no group such as (?P<loss>…)")
        for name in self.environment:
            if not name or "=" in name or "\0" in name + self.environment[name]:
                raise SpecError(f"environment: {name!r} cannot be the name of a variable")

    @classmethod
    def for_command(cls, argv: Sequence[str], working_directory: str) -> "JobSpec":
        """Return the job of `ascendrun launch -- PROGRAM ARGUMENTS`, run where the user stands."""
        words = [word for word in argv if not word.startswith("-")]
        scripts = [word for word in words if word.endswith((".py", ".sh"))]
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", (scripts or words or ["run"])[0].rpartition("/")[2].split(".")[0])
        return cls(name=stem.strip("-._")[:64] or "run", command=tuple(argv), working_directory=working_directory)

    @classmethod
    def parse(cls, text: str, source: str) -> "JobSpec":
        """Read a job file. Raises SpecError naming *source*, line and column."""
        document, positions = strictyaml.load(text, source, most_entries=_MOST_ENTRIES)
        if not isinstance(document, dict):
            raise SpecError(
                f"{source}: a job file is a mapping of fields (name:, module:, …), this is "
                f"{'empty' if document is None else 'a ' + type(document).__name__}"
            )
        if isinstance(document.get("devices"), bool):
            at = strictyaml.where(source, positions, ("devices",))
            raise SpecError(f"{at}: devices: give a count, a list or a range")
        return strictyaml.build(cls, document, source, positions, _known_fields)

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> "JobSpec":
        """Read back what `asdict` gave, after a journey through JSON; fields of a newer ascendrun are passed over."""
        known = {key: value for key, value in stored.items() if key in {field.name for field in fields(cls)}}
        for key, noun in _NOUNS.items():
            if known.get(key):
                names = {field.name for field in fields(noun)}
                known[key] = noun(**{name: _tuple(value) for name, value in known[key].items() if name in names})
        for key in ("command", "log_patterns"):
            if known.get(key) is not None:
                known[key] = tuple(known[key])
        return cls(**known)

    def with_restarts(self, most: int) -> "JobSpec":
        """Return the job with `--max-restarts`; 0 takes its `restart:` away."""
        if most == 0:
            return replace(self, restart=None)
        return replace(self, restart=replace(self.restart or RestartSpec(), max_restarts=most))

    def with_settings(self, settings: Iterable[str]) -> "JobSpec":
        """Return the job with each `KEY=VALUE` of `--set` applied; the value must have the key's type.

        KEY is a key of the job's `config:`, or `environment.NAME`. Raises SpecError.
        """
        config, environment = dict(self.config), dict(self.environment)
        for setting in settings:
            key, equals, text = setting.partition("=")
            key = key.strip()
            if not equals:
                raise SpecError(f"--set {setting}: write --set KEY=VALUE")
            if key.startswith("environment."):
                environment[key[len("environment.") :]] = text
            elif key in config:
                config[key] = _like(config[key], text, key)
            elif not config:
                raise SpecError(
                    f"--set {key}: this job has no `config:` to set; give the program its arguments after `--`"
                )
            else:
                raise SpecError(f"--set {key}: the job {self.name} has no such key{nearest(key, config)}")
        return replace(self, config=config, environment=environment)


def _tuple(value: Any) -> Any:
    """Return a list that JSON made of a tuple as what it was."""
    return tuple(value) if isinstance(value, list) else value


def check_name(name: str, what: str) -> None:
    """Raise SpecError unless *name* may be the name of a job, a run and a folder."""
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"{what} {name!r}: a name is made of letters, digits, '.', '_' and '-', at most 64, "
            "beginning with a letter or digit"
        )


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise SpecError(f"{name}: there is no {name} {value!r}{nearest(value, known)}")


def _like(old: Scalar, text: str, key: str) -> Scalar:
    """Return *text* as a value of the type that *old* has. Raises SpecError."""
    text = text.strip()
    try:
        if isinstance(old, bool):
            return {"true": True, "yes": True, "false": False, "no": False}[text.lower()]
        if isinstance(old, int):
            return int(text)
        if isinstance(old, float):
            return float(text)
    except (ValueError, KeyError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(old)]
        raise SpecError(f"--set {key}={text}: {key} is {kind} (now {str(old).lower()})") from None
    return text


def _known_fields(place: strictyaml.Place) -> "set[str]":
    noun = _NOUNS.get(str(place[0]), JobSpec) if place else JobSpec
    return {field.name for field in fields(noun)}
