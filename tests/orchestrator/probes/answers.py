"""Tables as `npu-smi info` of several drivers draws them, with figures of our own."""

from __future__ import annotations

from collections.abc import Sequence

WIDTHS = {"910B": (27, 15, 52), "310P": (31, 17, 54), "26": (27, 15, 70)}
FIRST = "NPU   Name | Health | Power(W)    Temp(C)           Hugepages-Usage(page)"
SECOND = {
    "910B": "Chip | Bus-Id | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)",
    "310P": "Chip    Device | Bus-Id | AICore(%)    Memory-Usage(MB)",
    "A3": "Chip  Phy-ID | Bus-Id | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)",
}


def table(
    rows: "Sequence[tuple[str, str]]", second: str = "910B", widths: str = "910B", version: str = "25.2.0"
) -> str:
    """Return a framed table of devices; each of *rows* is a device's two lines, their cells between bars."""
    sizes = WIDTHS[widths]

    def framed(line: str) -> str:
        return "|" + "|".join(f" {cell.strip():<{size - 1}}" for cell, size in zip(line.split("|"), sizes)) + "|"

    thin, thick = ("+" + "+".join(mark * size for size in sizes) + "+" for mark in "-=")
    top = "+" + "-" * (sum(sizes) + 2) + "+"
    lines = [top, f"| npu-smi {version}   Version: {version} |", thin, framed(FIRST), framed(SECOND[second]), thick]
    for row in rows:
        lines += [*map(framed, row), thick]
    return "\n".join(lines) + "\n"


def processes(*rows: str, heads: str = "NPU     Chip | Process id | Process name | Process memory(MB)") -> str:
    """Return the table below that of the devices."""
    return "\n".join(["+---+---+---+---+", f"| {heads} |", "+===+===+===+===+", *(f"| {row} |" for row in rows)]) + "\n"
