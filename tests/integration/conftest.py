"""Shared by the tests that use the real command."""

from __future__ import annotations

from tests.integration.far import far  # noqa: F401
