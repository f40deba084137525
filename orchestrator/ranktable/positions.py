"""Where in a JSON text a value stands."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Union

_BLANK = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def offset_of(text: str, path: "Sequence[Union[str, int]]") -> int:
    """Return the offset of the value that *path* (keys and indices) leads to; of its parent where it is not there.

    *text* is JSON. Of a key that is there twice the last is meant, as for all readers of JSON.
    """
    position = _skip(text, 0)
    for step in path:
        entries = _entries(text, position)
        if step not in entries:
            break
        position = entries[step]
    return position


def line_and_column(text: str, offset: int) -> "tuple[int, int]":
    """Return line and column of an offset, both from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


@lru_cache(maxsize=8)  # the faults of a table ask for the same outer ones, which are large
def _entries(text: str, position: int) -> "dict[Union[str, int], int]":
    """Return where each value of the object or array at *position* begins; nothing for what is neither."""
    found: "dict[Union[str, int], int]" = {}
    opening = text[position]
    if opening not in "{[":
        return found
    position = _skip(text, position + 1)
    while text[position] not in "}]":
        key: "Union[str, int]" = len(found)
        if opening == "{":
            key, position = _DECODER.raw_decode(text, position)
            position = _skip(text, _skip(text, position) + 1)  # over the colon
        found[key] = position
        position = _skip(text, _DECODER.raw_decode(text, position)[1])
        if text[position] == ",":
            position = _skip(text, position + 1)
    return found


def _skip(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    assert match is not None, "it matches nothing at least"
    return match.end()
