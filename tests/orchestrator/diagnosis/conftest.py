"""The rules, read once, and a scanner of them."""

from __future__ import annotations

import pytest

from orchestrator.diagnosis.rules import Rules
from orchestrator.diagnosis.scanning import Block, Scan, Scanner
from orchestrator.explain import load_rules


@pytest.fixture(scope="session")
def rules() -> Rules:
    return load_rules()


class Scans:
    """Scans texts as whole logs."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._scanner = Scanner(rules)

    def __call__(self, text: "str | bytes", *, block_bytes: int = 1 << 20, thorough: bool = True) -> Scan:
        data = text.encode() if isinstance(text, str) else text
        blocks = (Block(data[start : start + block_bytes], thorough) for start in range(0, len(data) or 1, block_bytes))
        return self._scanner.scan(blocks)


@pytest.fixture(scope="session")
def scan(rules: Rules) -> Scans:
    return Scans(rules)
