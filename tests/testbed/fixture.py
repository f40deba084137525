"""pytest fixtures: `testbed`, four hosts that all tests share, and `new_testbed`, which makes others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.testbed.bed import Testbed
from tests.testbed.machine import unavailable

HOSTS = 4


@pytest.fixture(scope="session")
def testbed() -> Iterator[Testbed]:
    """Hosts for the whole session. Faults that a test made are undone after it; files and processes are not."""
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    bed = Testbed.up(HOSTS)
    yield bed
    bed.down()


@pytest.fixture(autouse=True)
def _healed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "testbed" in request.fixturenames:
        request.getfixturevalue("testbed").heal()


@pytest.fixture
def new_testbed() -> "Iterator[Callable[[int], Testbed]]":
    """Make a test bed of some hosts for this test alone."""
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    made: "list[Testbed]" = []

    def make(count: int) -> Testbed:
        made.append(Testbed.up(count))
        return made[-1]

    yield make
    for bed in made:
        bed.down()
