"""Which devices of a server may form a job, by product. Source: HCCL's constraints, the vendor's affinity rules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

# The product -> how many devices a server of it has at most. `A2-Box16` is the Atlas 200T A2 Box16.
MOST_DEVICES = {"310P": 32, "910A": 8, "A2": 8, "A2-Box16": 16, "A3": 16, "A5": 65}
PRODUCTS = tuple(MOST_DEVICES)
LIKELY = ("910A", "A2", "A2-Box16", "A3")  # of a table that does not tell; A5 has a version of its own, 310P seldom any

_GROUPS_910A = (frozenset(range(4)), frozenset(range(4, 8)))  # joined by HCCS; between the two there is only PCIe
# Four devices that HCCL accepts besides a whole group; neither documents nor the usual tools offer them.
_FOURS_910A = tuple(frozenset(map(int, ids)) for ids in ("0145", "0246", "0347", "1256", "1357", "2367"))


def refusal(product: str, devices: "Iterable[int]") -> Optional[str]:
    """Return why devices of those ids on one server cannot work together on *product*; None: they can."""
    ids = frozenset(devices)
    beyond = sorted(one for one in ids if one >= MOST_DEVICES[product])
    if beyond:
        return f"a server of {product} has devices 0-{MOST_DEVICES[product] - 1}"
    if product == "910A":
        return _refused_by_910a(ids)
    if product == "A2-Box16":
        return _refused_by_box16(ids)
    if product == "A3" and len(ids) > 1 and any(one ^ 1 not in ids for one in ids):
        return "A3 jobs of more than one device take whole cards, that is dies 2k and 2k+1 together"
    if product == "A5" and len(ids) not in (1, 2, 4, 8):
        return "A5 jobs take 1, 2, 4 or 8 devices of a server"
    return None


def doubt(product: str, devices: "Iterable[int]") -> Optional[str]:
    """Return what speaks against devices that HCCL accepts on *product*; None: nothing."""
    if product == "910A" and frozenset(devices) in _FOURS_910A:
        return "HCCL accepts these four, yet two of their links go over PCIe; 0-3 or 4-7 are one HCCS group"
    return None


def _refused_by_910a(ids: "frozenset[int]") -> Optional[str]:
    in_one_group = any(ids <= group for group in _GROUPS_910A)
    if len(ids) not in (1, 2, 4, 8):
        return "on 910A a job takes 1, 2, 4 or 8 devices of a server"
    if len(ids) == 2 and not in_one_group:
        return "on 910A two devices must be in one HCCS group, 0-3 or 4-7"
    if len(ids) == 4 and not in_one_group and ids not in _FOURS_910A:
        return "on 910A four devices must be an HCCS group, 0-3 or 4-7"
    return None


def _refused_by_box16(ids: "frozenset[int]") -> Optional[str]:
    low, high = {one for one in ids if one < 8}, {one - 8 for one in ids if one >= 8}
    if low and high and len(ids) <= 8:
        return "on an A2 Box16 up to 8 devices must be in one module, 0-7 or 8-15"
    if low != high and len(ids) > 8:
        return "on an A2 Box16 more than 8 devices must sit alike in both modules (0 and 8, 1 and 9, ...)"
    return None
