from __future__ import annotations

import pytest

from sknet import device
from sknet.config import Config


@pytest.mark.parametrize(("target", "level"), [("Ascend", "O2"), ("CPU", "O0")])
def test_auto_becomes_what_it_means_on_this_machine(monkeypatch: pytest.MonkeyPatch, target: str, level: str) -> None:
    monkeypatch.setattr(device, "choose_device", lambda wanted, device_id: target)
    sink = "true" if target == "Ascend" else "false"
    assert device.resolved(Config(), 0) == Config(device_target=target, amp_level=level, dataset_sink_mode=sink)
    assert device.resolved(Config(dataset_sink_mode="false"), 0).dataset_sink_mode == "false"
    assert device.resolved(Config(amp_level="O3"), 0).amp_level == "O3"
