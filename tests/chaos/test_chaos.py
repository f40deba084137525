"""The suite of faults in its shorter form: ranks sum by sockets, and several runs go side by side."""

from __future__ import annotations

import pytest

from tests.chaos.faults import ALL
from tests.chaos.suite import run_all
from tests.testbed.machine import unavailable


@pytest.mark.timeout(1200)
@pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "")
def test_every_fault_is_noticed_named_and_costs_no_checkpoint_and_leaves_no_process() -> None:
    rows = run_all(ALL, "sockets", at_once=2)
    assert len(rows) >= 24
    assert [row for row in rows if not row.passed] == []
