"""Texts in foreign shapes, as Jinja2 files; installed as `orchestrator.templates`."""
