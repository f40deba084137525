"""JSON as people write it: what is no JSON is told in their words, comments are found and passed over."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn, Optional

from orchestrator.ranktable.model import Fault, JsonPath

# What is not closed runs to the end of its line, or of the text: so no character is looked at twice.
_COMMENT = re.compile(r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"?|//[^\n]*|/\*.*?(?:\*/|\Z)|#[^\n]*', re.DOTALL)
_SURROGATE = re.compile(r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..|[\ud800-\udfff])")
_MOST_LEVELS = 100  # of objects and lists in one another; a rank table has some six
_MARK = "\ufeff"


class Twice(dict):  # type: ignore[type-arg]  # as json makes them
    """A JSON object some of whose keys were there more than once."""

    keys_twice: "tuple[str, ...]" = ()


def _object(pairs: "list[tuple[str, Any]]") -> "dict[str, Any]":
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    marked = Twice(plain)
    marked.keys_twice = tuple(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return marked


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def document_in(text: str, faults: "list[Fault]") -> "Optional[dict[str, Any]]":
    """Return the JSON object that *text* is; None for what is none. What is wrong with it is added to *faults*."""
    if text.startswith(_MARK):
        problem = "the file begins with a byte order mark, which is no JSON"
        faults.append(Fault("byte-order-mark", 0, problem, "save it as UTF-8 without BOM"))
        text = _unmarked(text)
    try:
        document = _decoded(text, faults)
        for path, found in _with_keys_twice(document):
            for key in found.keys_twice:
                problem = f"{quoted(key)} is there twice, and readers disagree on which counts"
                faults.append(Fault("key-twice", (*path, key), problem, "keep one of them"))
    except json.JSONDecodeError as exc:
        faults.append(_not_json(exc.doc, exc))
        return None
    except (ValueError, RecursionError) as exc:
        faults.append(_too_strange(exc))
        return None
    if not isinstance(document, dict):
        problem = f"the file holds {kind(document)}, and a rank table is an object: {{...}}"
        faults.append(Fault("not-a-table", 0, problem, "is this the right file?"))
        return None
    half = _half_a_character(text)
    if half is not None:
        shown = half.group(1).encode("ascii", "backslashreplace").decode()
        problem = f"{shown} is half a character, which is no text"
        faults.append(Fault("not-json", half.start(), problem, "take it out"))
        return None
    return document


def _decoded(text: str, faults: "list[Fault]") -> Any:
    try:
        return _loads(text)
    except json.JSONDecodeError:
        plain = without_comments(text)
        if plain == text:
            raise
    comment = next(_comments(text))
    problem = f"a comment ({quoted(comment.group())}); HCCL reads plain JSON, which has none"
    faults.append(Fault("comment", comment.start(), problem, "take the comments out"))
    return _loads(plain)


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)


def _too_strange(exc: Exception) -> Fault:
    reason = "nested deeper than any rank table" if isinstance(exc, RecursionError) else str(exc).split(";")[0]
    return Fault("not-json", 0, f"cannot be read: {reason}", "is this the right file?")


def _not_json(text: str, exc: json.JSONDecodeError) -> Fault:
    """Say in the user's words why *text* is no JSON."""
    at, before = exc.pos, text[: exc.pos].rstrip()
    rest = text[at:].lstrip()
    remedy = "mend it, or write the table anew with `ascendrun rank-table`"
    if not text.strip():
        return Fault("truncated", 0, "the file is empty", "write it anew with `ascendrun rank-table`")
    if not rest or (exc.msg.startswith("Unterminated string") and "\n" not in rest.rstrip()):
        problem = "the file ends in the midst of the table: it was cut off"
        return Fault("truncated", at, problem, "copy it again from where it is whole, or write it anew")
    trailing = (before[-1:] == "," and rest[:1] in "]}") or (rest[:1] == "," and rest[1:].lstrip()[:1] in ("]", "}"))
    if trailing:
        return Fault("not-json", at, "a comma behind the last entry, which JSON does not allow", "take it out")
    if rest[:1] == "'":
        return Fault("not-json", at, "single quotes; JSON wants double ones", remedy)
    if exc.msg == "Extra data":
        return Fault("not-json", at, f"something follows behind the table: {quoted(rest)}", "take it out")
    return Fault("not-json", at, f"not JSON: {exc.msg[0].lower()}{exc.msg[1:]}, at {quoted(rest)}", remedy)


def _comments(text: str) -> "Iterator[re.Match[str]]":
    return (match for match in _COMMENT.finditer(text) if match.group()[0] != '"')


def without_comments(text: str) -> str:
    """Return *text* with blanks in place of comments and of its mark, so that every offset stays what it was."""
    text = _unmarked(text)
    if "//" not in text and "/*" not in text and "#" not in text:
        return text
    return _COMMENT.sub(lambda match: match.group() if match.group()[0] == '"' else _blank(match.group()), text)


def _unmarked(text: str) -> str:
    return " " + text[1:] if text.startswith(_MARK) else text


def _half_a_character(text: str) -> "Optional[re.Match[str]]":
    """Return the first surrogate without its other half, as its group 1: Python reads one, HCCL and files do not."""
    if "\\u" not in text and text.isascii():
        return None
    return next((match for match in _SURROGATE.finditer(text) if match.group(1)), None)


def _blank(comment: str) -> str:
    return re.sub(r"[^\n]", " ", comment)


def quoted(text: str) -> str:
    line = text.strip().split("\n")[0]
    return repr(line if len(line) <= 40 else line[:37] + "...")


def kind(value: Any) -> str:
    if value is None:
        return "null"
    return {dict: "an object", Twice: "an object", list: "a list", str: "a text", bool: "true or false"}.get(
        type(value), "a number"
    )


def _with_keys_twice(value: Any, path: JsonPath = ()) -> "Iterator[tuple[JsonPath, Twice]]":
    if len(path) > _MOST_LEVELS:
        raise RecursionError
    if isinstance(value, Twice):
        yield path, value
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(inner, (dict, list)):
                yield from _with_keys_twice(inner, (*path, key))
