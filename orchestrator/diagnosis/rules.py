"""Rule: what a line of a log means; the rules are read strictly from `rules.yaml`."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Optional

from orchestrator import strictyaml
from orchestrator.errors import SpecError

_MOST_ENTRIES = 50_000
_CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LEAST_TEXT = 5  # bytes: shorter ones would be looked for in every line
_FAMILY = re.compile(r"E[A-Z1-9]####|[1-5]\d\d###")
_FIELD = re.compile(r"\{(\w+)\}")


class Category(enum.Enum):
    """Where the cause lies."""

    NETWORK = "network"
    DEVICE = "device"
    MEMORY = "memory"
    CONFIGURATION = "configuration"
    USER_CODE = "user code"
    ENVIRONMENT = "environment"
    STORAGE = "storage"
    OTHER = "other"  # the line tells that something happened, and another rank's log why


class Role(enum.Enum):
    """What a line is worth; the first there is decides."""

    CAUSE = "cause"  # says by itself what is wrong
    SYMPTOM = "symptom"  # it failed here; the line does not say why
    ECHO = "echo"  # this rank waited in vain for another one
    HINT = "hint"  # a warning that runs survive; it counts where nothing else is found
    WRAPPER = "wrapper"  # only says that something below it failed


class Language(enum.Enum):
    EN = "en"
    ZH = "zh"


@dataclass(frozen=True)
class Words:
    """One sentence each, for people. `{name}` is what the group of that name in the rule's pattern found."""

    cause: str
    remedy: str

    __pydantic_config__: ClassVar[dict[str, Any]] = strictyaml.STRICT


@dataclass(frozen=True)
class Rule:
    """A line that contains one of *text*, and in which *pattern* is found, means what *en* and *zh* say.

    A text such as `E1####` or `107###` stands for all error codes of six characters that begin so.
    Raises SpecError where the fields do not make a rule.
    """

    code: str
    category: Category
    retriable: bool  # an unchanged retry has a fair chance, once what is left of the run is gone
    text: tuple[str, ...]  # literal but for a family of codes; a line without any of them is not looked at further
    en: Words
    zh: Words
    source: str  # where the signature and the remedy are known from
    example: tuple[str, ...]  # lines of a log in which the rule must be found
    role: Role = Role.CAUSE
    pattern: Optional[str] = None
    near: Optional[str] = None  # a pattern that some line within a few thousand bytes must have too
    at_any_level: bool = False  # also in lines that a logger marks as information or a warning

    __pydantic_config__: ClassVar[dict[str, Any]] = strictyaml.STRICT

    def __post_init__(self) -> None:
        if not _CODE.fullmatch(self.code):
            raise SpecError(f"code '{self.code}': lower-case words with hyphens between them")
        if not self.text or any(len(text.encode()) < _LEAST_TEXT for text in self.text):
            raise SpecError(f"{self.code}: text: give texts of {_LEAST_TEXT} bytes at least")
        if any(text.endswith("##") and not _FAMILY.fullmatch(text) for text in self.text):
            raise SpecError(f"{self.code}: text: a family of codes is written as `E1####` or `107###`")
        if not self.example:
            raise SpecError(f"{self.code}: example: without one the rule cannot be tested")
        for pattern in (self.pattern, self.near):
            try:
                re.compile(pattern or "")
            except re.error as exc:
                raise SpecError(f"{self.code}: {pattern!r} is not a regular expression: {exc}") from exc
        for words in (self.en, self.zh):
            for name in _FIELD.findall(words.cause + words.remedy):
                if name not in self.compiled.groupindex:
                    raise SpecError(f"{self.code}: {{{name}}}: the pattern has no group of that name")

    @cached_property
    def compiled(self) -> "re.Pattern[str]":
        return re.compile(self.pattern or "")

    @cached_property
    def compiled_near(self) -> "Optional[re.Pattern[bytes]]":
        return re.compile(self.near.encode()) if self.near is not None else None

    def words(self, language: Language, details: Mapping[str, str]) -> Words:
        """Return cause and remedy in *language* with *details* in their places."""
        words = self.zh if language is Language.ZH else self.en

        def filled(text: str) -> str:
            return _FIELD.sub(lambda match: details.get(match.group(1)) or "?", text)

        return Words(filled(words.cause), filled(words.remedy))


class Rules:
    """All rules, in the order of their file: of two that fit one line, the earlier is meant."""

    def __init__(self, rules: "tuple[Rule, ...]") -> None:
        self._rules = rules
        self._of_code = {rule.code: rule for rule in rules}

    def __iter__(self) -> "Iterator[Rule]":
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def __getitem__(self, code: str) -> Rule:
        return self._of_code[code]

    @classmethod
    def parse(cls, text: str, source: str, *, ours: bool = False) -> "Rules":
        """Return the rules of a YAML text: a list of mappings with the fields of Rule. Raises SpecError.

        *ours*: the rules come with ascendrun.
        """
        document, positions = strictyaml.load(text, source, most_entries=_MOST_ENTRIES, ours=ours)
        if not isinstance(document, list):
            raise SpecError(f"{source}: rules are a list of mappings")
        names = [one.name for one in fields(Rule)]
        of_words = [one.name for one in fields(Words)]
        rules: "list[Rule]" = []
        seen: "set[str]" = set()
        for index, entry in enumerate(document):
            rule = strictyaml.build(
                Rule, entry, source, positions, lambda place: of_words if place else names, (index,)
            )
            if rule.code in seen:
                raise SpecError(f"{strictyaml.where(source, positions, (index, 'code'))}: '{rule.code}' is there twice")
            seen.add(rule.code)
            rules.append(rule)
        return cls(tuple(rules))
