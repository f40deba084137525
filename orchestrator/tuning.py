"""What makes ranks fast, and what they leave behind when they crash. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from orchestrator.inventory import Host


def share_cpus(cpus: Sequence[int], size: int) -> "tuple[tuple[int, ...], ...]":
    """Return *size* equal runs of CPUs; nothing where a rank would get fewer than two.

    A rank on a single CPU is left free to move and only limited in threads: MindSpore's cluster client, confined to
    one, misses its own 40 ms limit again and again, and takes up to 80 s to join instead of 5.
    """
    each = len(cpus) // size
    if each < 2:
        return ()
    return tuple(tuple(cpus[rank * each : (rank + 1) * each]) for rank in range(size))


def tuned(
    host: Host, environment: Mapping[str, str], *, threads: int, compile_cache: Optional[str]
) -> "dict[str, str]":
    """Return the variables that make ranks fast beside one another; what the user has set is left out."""
    # Python writes its stacks into the log when a rank that hangs is aborted, and when it crashes.
    variables = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "OMP_NUM_THREADS": str(threads)}
    if host.backend == "cpu" and "avx512f" in host.cpu_flags:
        # oneDNN in MindSpore 2.x falls to its reference convolution with AVX-512: 5 times slower than with AVX2.
        variables["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    if compile_cache is not None:
        variables["MS_COMPILER_CACHE_ENABLE"] = "1"
        variables["MS_COMPILER_CACHE_PATH"] = compile_cache
    return {name: value for name, value in variables.items() if name not in environment}
