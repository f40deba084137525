"""Secrets that must not be copied about: known by the names under which people keep them."""

from __future__ import annotations

from typing import Dict, Mapping

MASK = "***"
_WORDS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY", "ACCESS_KEY", "PRIVATE_KEY")


def looks_secret(name: str) -> bool:
    """Tell whether a variable or key of this name holds a secret, by the words that people use."""
    upper = name.upper()
    return any(word in upper for word in _WORDS)


def masked(variables: Mapping[str, str]) -> Dict[str, str]:
    """Return *variables* with `***` for each value that looks secret."""
    return {name: MASK if looks_secret(name) else value for name, value in variables.items()}
