"""YAML that people write, read strictly: each mistake with its file, line, key and the nearest known key."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from orchestrator.errors import SpecError, nearest

STRICT = {"extra": "forbid"}  # for `__pydantic_config__`: a field that we do not know is an error
_UNKNOWN_FIELD = "unexpected_keyword_argument"  # pydantic's name for it

T = TypeVar("T")
Place = tuple[Any, ...]  # the keys and indices that lead to an entry
Positions = Mapping[Place, tuple[int, int]]  # line and column, from 1


def load(text: str, source: str, *, most_entries: int, ours: bool = False) -> "tuple[Any, Positions]":
    """Return the document and the line and column of each of its keys and items, from 1.

    Raises SpecError for what is no YAML, for a key given twice, for endless aliases, and for more than *most_entries*.
    *ours*: the text comes with ascendrun. libyaml is five times as quick, and crashes on brackets without end.
    """
    import yaml

    safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader) if ours else yaml.SafeLoader

    class Loader(safe):  # type: ignore[misc]
        """YAML 1.1 takes `1e-4` for text; everybody who writes it means a number."""

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
    try:
        loader = Loader(text)
        try:
            node = loader.get_single_node()
            positions = _positions(node, source, most_entries)
            return (loader.construct_document(node) if node is not None else None), positions
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise SpecError(f"{where}: {exc.problem or exc.context} (YAML)") from exc
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as exc:  # `!!int ''` and the like
        raise SpecError(f"{source}: {str(exc).splitlines()[0]} (YAML)") from exc


def _positions(root: Any, source: str, most_entries: int) -> Positions:
    import yaml

    found: "dict[Place, tuple[int, int]]" = {}

    def walk(node: Any, path: Place, above: "tuple[int, ...]") -> None:
        if id(node) in above:
            raise SpecError(f"{source}:{node.start_mark.line + 1}: an alias that contains itself")
        if len(found) > most_entries:
            raise SpecError(f"{source}: more than {most_entries:,} entries; this cannot be meant")
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise SpecError(
                        f"{source}:{key.start_mark.line + 1}:{key.start_mark.column + 1}: a key must be a word"
                    )
                place = (*path, key.value)
                if place in found:
                    raise SpecError(
                        f"{source}:{key.start_mark.line + 1}:{key.start_mark.column + 1}: "
                        f"'{place[-1]}' is given twice (first in line {found[place][0]})"
                    )
                found[place] = (key.start_mark.line + 1, key.start_mark.column + 1)
                walk(value, place, (*above, id(node)))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                found[(*path, index)] = (value.start_mark.line + 1, value.start_mark.column + 1)
                walk(value, (*path, index), (*above, id(node)))

    if root is not None:
        walk(root, (), ())
    return found


def build(
    noun: "type[T]",
    document: Any,
    source: str,
    positions: Positions,
    known_fields: "Callable[[Place], Iterable[str]]",
    place: Place = (),
) -> T:
    """Return *document*, which stands at *place* of its file, as the dataclass *noun*.

    *known_fields* names the fields that a mapping at a place below may have. Raises SpecError.
    """
    import pydantic  # 80 ms: only when a file is read

    try:
        return _adapter(noun).validate_python(document)  # type: ignore[arg-type,no-any-return]
    except pydantic.ValidationError as exc:
        errors = exc.errors(include_url=False)
        # A misspelt field also leaves the right one missing: the misspelling is what to tell.
        errors.sort(key=lambda error: error["type"] != _UNKNOWN_FIELD)
        raise SpecError(_explain(errors[0], source, positions, known_fields, place)) from exc
    except SpecError as exc:
        raise SpecError(f"{where(source, positions, place)}: {exc}") from exc


@functools.cache
def _adapter(noun: type) -> Any:
    import pydantic

    return pydantic.TypeAdapter(noun)  # 2 ms, which a list of hosts would pay for each


def where(source: str, positions: Positions, place: Place) -> str:
    """Return `FILE:LINE:COLUMN` of *place*, or of what it is in."""
    while place and place not in positions:
        place = place[:-1]
    line, column = positions.get(place, (0, 0))
    return f"{source}:{line}:{column}" if line else source


def _explain(
    error: Mapping[str, Any],
    source: str,
    positions: Positions,
    known_fields: "Callable[[Place], Iterable[str]]",
    above: Place,
) -> str:
    """Say one of pydantic's findings in the user's terms, with its place in the file."""
    place: Place = tuple(error["loc"])
    while place and (*above, *place) not in positions:
        place = place[:-1]
    at = where(source, positions, (*above, *place))
    name = ".".join(map(str, place)) or str(error["loc"][0] if error["loc"] else "")
    if error["type"] == _UNKNOWN_FIELD:
        return f"{at}: unknown field '{name}'{nearest(str(place[-1]), known_fields(place[:-1]))}"
    if error["type"] in ("missing", "missing_argument"):
        return f"{at}: the field '{error['loc'][-1]}' is missing"
    if error["type"] == "value_error" or isinstance(error.get("ctx", {}).get("error"), Exception):
        return f"{at}: {error['msg']}"
    if len(error["loc"]) > len(place) and isinstance(error["input"], (dict, list)):  # no branch of a union of scalars
        return f"{at}: {name}: give one number, text, true or false, not {error['input']!r:.80}"
    return f"{at}: {name}: {error['msg'][0].lower()}{error['msg'][1:]}, not {error['input']!r:.80}"
