"""Whether a failed run is started again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.jobspec import CAUSES, JobSpec, RestartSpec
from orchestrator.policy import Attempt, decide, share_out
from orchestrator.verdict import Cause


def attempt(**changes: Any) -> Attempt:
    known: "dict[str, Any]" = {"cause": "signal", "retriable": True, "host": "a", "rank": 3, "checkpoints": 1}
    return Attempt(**{**known, **changes})


ATTEMPTS = st.lists(
    st.builds(
        Attempt,
        cause=st.sampled_from(CAUSES),
        retriable=st.booleans(),
        host=st.sampled_from([None, "a", "b"]),
        rank=st.sampled_from([None, 0, 1]),
        checkpoints=st.integers(0, 2),
    ),
    min_size=1,
    max_size=12,
)
SPECS = st.builds(
    RestartSpec, max_restarts=st.integers(0, 5), without_checkpoint=st.integers(1, 4), same_failure=st.integers(1, 4)
)


@given(SPECS, ATTEMPTS)
def test_no_run_is_started_more_often_than_it_may_be_or_for_a_cause_that_stays(
    spec: RestartSpec, attempts: "list[Attempt]"
) -> None:
    decision = decide(spec, attempts)
    assert decision.reason
    if decision.restart:
        assert len(attempts) <= spec.max_restarts
        assert attempts[-1].retriable
        assert any(one.checkpoints for one in attempts[-spec.without_checkpoint :]) or (
            len(attempts) < spec.without_checkpoint
        )
        assert 0 <= decision.wait_s <= spec.most_backoff_s


def test_waiting_grows_while_nothing_new_comes_of_it_and_begins_anew_after_a_checkpoint() -> None:
    spec = RestartSpec(max_restarts=99, without_checkpoint=99, same_failure=99, backoff_s=2, most_backoff_s=10)
    fruitless = [attempt(checkpoints=0)]
    assert [decide(spec, fruitless * count).wait_s for count in (1, 2, 3, 4, 9)] == [2, 4, 8, 10, 10]
    assert decide(spec, [*fruitless * 9, attempt()]).wait_s == 2


def test_a_user_error_is_not_tried_again_unless_the_job_names_it() -> None:
    failed = [attempt(cause="import_error", retriable=False)]
    assert not decide(RestartSpec(), failed).restart
    assert decide(RestartSpec(causes=("import_error",)), failed).restart
    assert not decide(RestartSpec(causes=("host_lost",)), [attempt()]).restart


def test_the_same_failure_at_the_same_place_again_and_again_ends_a_run_that_makes_progress() -> None:
    spec = RestartSpec(max_restarts=99, same_failure=3)
    assert decide(spec, [attempt()] * 2).restart
    assert "rank 3 on a 3 times in a row" in decide(spec, [attempt()] * 3).reason
    assert decide(spec, [attempt(), attempt(), attempt(host="b"), attempt()]).restart


def test_a_run_leaves_the_host_of_an_ill_device_where_it_can_and_says_where_it_cannot() -> None:
    ill = [attempt(cause="device")]
    left = decide(RestartSpec(on_host_lost="replace"), ill, dispensable=True)
    assert (left.restart, left.avoid, left.reason) == (True, "a", "restart 1 of 3, without a")
    kept = decide(RestartSpec(on_host_lost="replace"), ill)
    assert (kept.restart, kept.avoid, kept.reason) == (
        True,
        None,
        "restart 1 of 3, on a again: there is no other for it",
    )
    assert "on_host_lost is `wait`" in decide(RestartSpec(), ill).reason
    assert decide(RestartSpec(on_host_lost="replace"), [attempt()], dispensable=True).avoid is None


@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 5000))
def test_a_run_that_shrinks_keeps_the_most_ranks_that_share_its_batch(hosts: int, devices: int, batch: int) -> None:
    kept = share_out(hosts, devices, batch)
    assert kept[0] <= hosts and kept[1] <= devices
    assert batch % (kept[0] * kept[1]) == 0
    more = [h * d for h in range(1, hosts + 1) for d in range(1, devices + 1) if batch % (h * d) == 0]
    assert kept[0] * kept[1] == max(more)


def test_hosts_are_kept_rather_than_devices_and_all_where_the_batch_is_not_known() -> None:
    assert share_out(3, 8, 1024) == (2, 8)
    assert share_out(3, 8, 96) == (3, 8)
    assert share_out(2, 6, 32) == (2, 4)
    assert share_out(3, 8, None) == (3, 8)


def test_causes_of_a_job_file_are_those_that_a_verdict_knows() -> None:
    """A stop is nobody's failure; that somebody else ended the ranks, an exit code tells."""
    assert set(CAUSES) == {cause.value for cause in Cause} - {"stopped"} | {"preempted"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("max_restarts: -1", "max_restarts -1"),
        ("on_host_lost: replce", "did you mean 'replace'"),
        ("causes: [hangs]", "did you mean 'hang'"),
        ("host_lost_after_s: 0", "host_lost_after_s"),
        ("max_retries: 3", "max_restarts"),
        ("backoff_s: .nan", "backoff_s"),
    ],
)
def test_a_restart_block_that_cannot_be_is_refused(line: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        JobSpec.parse(f"name: j\ncommand: [true]\nrestart:\n  {line}\n", "j.yaml")


def test_a_restart_block_survives_its_journey_through_json() -> None:
    import json
    from dataclasses import asdict

    spec = JobSpec.parse("name: j\ncommand: ['true']\nrestart: {causes: [hang, signal]}\n", "j.yaml")
    assert JobSpec.from_stored(json.loads(json.dumps(asdict(spec)))) == spec
