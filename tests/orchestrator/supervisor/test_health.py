"""What a series of samples says to have become worse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.supervisor.health import Change, Health

FINE = {
    "health": "OK", "temp_c": 52, "hbm_used_mb": 30000, "hbm_total_mb": 65536, "ecc": 1, "corrected_ecc": 3,
    "isolated_pages": 1, "link": "UP", "link_flaps": 4, "net_health": "Success",
}  # fmt: skip


def sample(changed: "dict[str, Any] | None" = None, device: int = 3, count: int = 8) -> "dict[str, Any]":
    """Return a sample of *count* devices that are fine, but for what *device* has *changed*."""
    devices: "dict[str, Any]" = {str(number): dict(FINE) for number in range(count)}
    devices[str(device)].update(changed or {})
    memory = {"available_bytes": 500e9, "total_bytes": 1500e9}
    return {"problem": None, "whole": True, "devices": devices, "memory": memory}


def changes(*samples: "dict[str, Any]", links_matter: bool = True) -> "list[Change]":
    health = Health(links_matter=links_matter)
    return [change for one in samples for change in health.look(one)]


def brief(found: "list[Change]") -> "list[tuple[str, int | None, str | None]]":
    return [(one.what, one.device, one.severity) for one in found]


@pytest.mark.parametrize(
    ("worse", "what", "severity", "before", "now"),
    [
        ({"health": "Warning"}, "health", "warning", "OK", "Warning"),
        ({"health": "Alarm"}, "health", "fault", "OK", "Alarm"),
        ({"health": "Sulking"}, "health", "warning", "OK", "Sulking"),
        ({"temp_c": 86}, "temperature", "warning", 52, 86),
        ({"ecc": 2}, "ecc", "fault", 1, 2),
        ({"corrected_ecc": 19}, "corrected_ecc", "warning", 3, 19),
        ({"isolated_pages": 2}, "isolated_pages", "warning", 1, 2),
        ({"isolated_pages": 64}, "isolated_pages", "fault", 1, 64),
        ({"link": "DOWN", "link_flaps": 5, "net_health": "Fault"}, "link", "fault", "UP", "DOWN"),
        ({"link_flaps": 5}, "link_flaps", "warning", 4, 5),
        ({"net_health": "Socket fail"}, "net_health", "warning", "Success", "Socket fail"),
    ],
)
def test_what_gets_worse_is_told_once_of_its_device(
    worse: "dict[str, Any]", what: str, severity: str, before: Any, now: Any
) -> None:
    found = changes(sample(), sample(), *[sample(worse)] * 50)
    assert found == [Change(what, 3, severity, found[0].level, before, now)]


def test_what_is_well_again_is_told_to_be_over_and_not_before_it_stays_so() -> None:
    ill, well = sample({"health": "Alarm"}), sample()
    assert brief(changes(well, ill, well, ill, well, well, ill)) == [("health", 3, "fault")]
    found = changes(well, ill, well, well, well, well, ill)
    assert brief(found) == [("health", 3, "fault"), ("health", 3, None), ("health", 3, "fault")]


def test_a_warning_that_becomes_an_alarm_is_told_again_and_the_way_back_is_not() -> None:
    path = [sample({"health": status}) for status in ("OK", "Warning", "Alarm", "Critical", "Alarm", "Warning")]
    assert [one.now for one in changes(*path)] == ["Warning", "Alarm", "Critical"]


def test_a_device_that_is_not_shown_any_more_is_gone_and_comes_back() -> None:
    without = sample()
    del without["devices"]["3"]
    found = changes(sample(), without, without, *[sample()] * 3)
    assert found == [Change("health", 3, "fault", 4, "OK", "gone"), Change("health", 3, None, 0, "OK", "OK")]
    assert changes(sample(), *[{**without, "whole": False}] * 9) == [], "rows were cut out, or not understood"


def test_a_counter_that_grows_for_ever_is_told_each_time_that_it_has_doubled() -> None:
    found = changes(*(sample({"ecc": count}) for count in range(1, 1002)))
    assert [one.now for one in found] == [2, 3, 5, 9, 17, 33, 65, 129, 257, 513]
    reset = changes(sample({"ecc": 9}), sample({"ecc": 2}), sample({"ecc": 3}))
    assert [(one.before, one.now) for one in reset] == [(2, 3)], "the device was reset"


def test_a_link_that_never_was_up_is_no_news_and_one_that_nobody_needs_no_fault() -> None:
    down = sample({"link": "DOWN", "net_health": "Fault"})
    assert changes(*[down] * 9) == []
    assert brief(changes(sample(), down, links_matter=False)) == [("link", 3, "warning")]


def temperatures(*celsius: int) -> "list[tuple[Any, int]]":
    return [
        (one.severity, one.now) for one in changes(*(sample({"temp_c": one}, count=1, device=0) for one in celsius))
    ]


def test_a_device_is_hot_at_its_limit_on_its_way_there_and_beyond_its_kind() -> None:
    assert temperatures(*range(40, 75), 75, 74, 75, 76) == [], "it warms up"
    assert temperatures(80, 84, 85, 84, 85, 84, 81, 84, 101, 90) == [("warning", 85), ("warning", 101)]
    assert temperatures(85, 79, 79, 79) == [("warning", 85), (None, 79)]
    assert temperatures(*range(70, 84)) == [("warning", 79)], "it rises, and nothing stops it"
    hotter = [sample({"temp_c": 73})] * 4
    assert brief(changes(sample(), *hotter)) == [("temperature", 3, "warning")]


def test_memory_that_grows_and_grows_is_told_of_and_memory_that_is_taken_at_the_start_is_not() -> None:
    steady = [30000 + 500 * (hour % 2) for hour in range(1000)]
    assert changes(*(sample({"hbm_used_mb": used}) for used in [3000, 9000, 20000, *steady])) == []
    leaking = [30000 + 10 * count + 500 * (count % 7) for count in range(1000)]
    found = changes(*(sample({"hbm_used_mb": used}) for used in [*[3000] * 20, *leaking]))
    assert found[0].before == 30000
    assert {(one.what, one.device, one.severity) for one in found} == {("hbm_growth", 3, "warning")}
    assert 1 <= len(found) <= 4


def test_a_driver_that_stops_to_answer_is_told_of_and_one_that_never_did_is_not() -> None:
    silent = {"problem": "npu-smi gives no answer in 10 s"}
    assert changes(*[silent] * 9) == []
    assert changes(sample(), silent, sample()) == []
    found = changes(sample(), *[silent] * 5, *[sample()] * 3)
    assert brief(found) == [("npu_smi", None, "fault"), ("npu_smi", None, None)]


def test_little_memory_of_the_host_is_told_of_once() -> None:
    low = {"memory": {"available_bytes": 1e9, "total_bytes": 1500e9}}
    assert brief(changes(sample(), low, low, low)) == [("host_memory", None, "warning")]


def test_what_another_supervisor_told_is_not_told_again() -> None:
    health = Health(links_matter=True)
    health.look(sample())
    health.restore(("ecc", 3), 1)
    health.restore(("health", 3), 2)
    health.restore(("health", 3), 0)
    assert brief(health.look(sample({"ecc": 2, "health": "Alarm"}))) == [("health", 3, "fault")]
    assert brief(health.look(sample({"ecc": 9, "health": "Alarm"}))) == [("ecc", 3, "fault")]


figures = st.fixed_dictionaries(
    {},
    optional={
        "health": st.sampled_from(["OK", "OK", "Warning", "Alarm", "", None, 3]),
        "link": st.sampled_from(["UP", "DOWN", "", None, 1]),
        "net_health": st.sampled_from(["Success", "Init", "Fault", None, []]),
        **{
            name: st.one_of(st.integers(-(10**20), 10**20), st.floats(), st.none(), st.text(max_size=2), st.booleans())
            for name in (
                "temp_c",
                "ecc",
                "corrected_ecc",
                "isolated_pages",
                "link_flaps",
                "hbm_used_mb",
                "hbm_total_mb",
            )
        },
    },
)
samples = st.fixed_dictionaries(
    {},
    optional={
        "problem": st.sampled_from([None, "no answer", 3]),
        "whole": st.sampled_from([True, False, None]),
        "devices": st.one_of(
            st.dictionaries(st.sampled_from(["0", "1", "7", "", "x", "²", "-1"]), st.one_of(figures, st.none())),
            st.none(),
        ),
        "memory": st.one_of(
            st.dictionaries(st.sampled_from(["available_bytes", "total_bytes"]), st.floats()), st.none()
        ),
        "mono": st.floats(),
        "at": st.integers(),
    },
)


@given(st.lists(samples, max_size=30), st.booleans())
def test_whatever_samples_come_in_whatever_order_each_thing_is_told_level_by_level(
    series: "list[dict[str, Any]]", links_matter: bool
) -> None:
    levels: "dict[tuple[str, int | None], int]" = {}
    for change in changes(*series, links_matter=links_matter):
        before = levels.get((change.what, change.device), 0)
        assert change.level > before if change.severity else (before > 0 and change.level == 0)
        levels[change.what, change.device] = change.level


within = st.fixed_dictionaries({
    "health": st.just("OK"), "temp_c": st.integers(20, 59), "hbm_used_mb": st.integers(0, 65536),
    "hbm_total_mb": st.just(65536), "ecc": st.integers(0, 9), "corrected_ecc": st.integers(0, 10**9),
    "isolated_pages": st.integers(0, 63), "link": st.sampled_from(["UP", "DOWN"]), "link_flaps": st.integers(0, 999),
    "net_health": st.sampled_from(["Success", "Init", "Fault", "Unreachable"]),
})  # fmt: skip


@given(st.dictionaries(st.sampled_from("0123"), within), st.lists(st.integers(0, 3), max_size=150))
def test_figures_that_stay_as_they_are_are_no_news_whatever_is_missing_between_them(
    devices: "dict[str, Any]", missing: "list[int]"
) -> None:
    whole = {"problem": None, "whole": True, "devices": devices}
    partial = {"whole": False, "devices": {name: one for name, one in devices.items() if name != "0"}}
    assert changes(*({0: {}, 1: partial, 2: whole, 3: {**whole, "mono": -1}}[one] for one in missing)) == []
