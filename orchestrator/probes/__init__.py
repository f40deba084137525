"""Probes: what to ask a host, and a pure parser of what it answers, by what the text says and not by its columns."""
