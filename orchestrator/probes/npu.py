"""What `npu-smi` says of the devices of a host. Source: npu-smi's own documents and source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional

_SDID = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True)
class SuperPodPlace:
    """Where a die of an A3 host is in its super pod."""

    super_device_id: int  # SDID
    super_pod_id: str


def spod_words(npu: int, die: int) -> "list[str]":
    return ["npu-smi", "info", "-t", "spod-info", "-i", str(npu), "-c", str(die)]


def parse_spod(text: str) -> Optional[SuperPodPlace]:
    """Return what `spod_words` is answered on A3; None for the refusal of every other product."""
    parted = (line.partition(":") for line in text.splitlines())
    pairs = {name.strip(): value.strip() for name, _, value in parted}
    sdid, pod = pairs.get("SDID", ""), pairs.get("Super Pod ID", "")
    if not (_SDID.fullmatch(sdid) and pod):
        return None
    return SuperPodPlace(int(sdid), pod)


_CARD = re.compile(r"^\|\s*\d+\s+(?:Ascend\s*)?(\S+)\s*\|")
# How cards are called -> the product, as rank tables tell products apart. `910B` without a digit is of the first
# generation; `Ascend910` is A3.
_FAMILIES = (
    (re.compile(r"910B\d.*"), "A2"),
    (re.compile(r"910(A|B|ProA|ProB|PremiumA)"), "910A"),
    (re.compile(r"910"), "A3"),
    (re.compile(r"950.*"), "A5"),
    (re.compile(r"310P\d?"), "310P"),
)
_MOST_OF_A2 = 8  # devices; with more it is the A2 Box16


def parse_product(text: str) -> Optional[str]:
    """Return the product that `npu-smi info` shows, as `ranktable.products` names it; None for others, or several."""
    names = [match.group(1) for match in map(_CARD.match, text.splitlines()) if match]
    products = [product for name in names for pattern, product in _FAMILIES if pattern.fullmatch(name)]
    if len(set(products)) != 1:
        return None
    return "A2-Box16" if products[0] == "A2" and len(products) > _MOST_OF_A2 else products[0]
