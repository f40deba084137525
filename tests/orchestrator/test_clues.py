from __future__ import annotations

from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.clues import Kind, clue_of

# What rank 0 of MindSpore 2.10 logged on the CPU when rank 1 was gone, and when it had been stopped; shortened.
RING = """\
[ERROR] DISTRIBUTED(18963,7efe8ba84b80,python):2026-11-23-00:11:46 [collective_ops_impl.cc:162] RunRingAllReduce] \
Ring ReduceScatter wait receiving [1,21] failed.
[ERROR] KERNEL(18963,7efe8ba84b80,python):2026-11-23-00:11:46 [allreduce_cpu_kernel.cc:89] Launch] \
AllReduceCPUKernelMod launch failed.
Traceback (most recent call last):
  File "train.py", line 18, in <module>
RuntimeError:
----------------------------------------------------
- Kernel error:
----------------------------------------------------
Launch kernel failed: Default/AllReduce-op0
"""
CLUSTER = """\
[WARNING] DISTRIBUTED(18963,7efe5cc9c6c0,python):2026-11-23-00:12:02 [compute_graph_node.cc:313] Heartbeat] \
Failed to send heartbeat message to meta server node and try to reconnect to the meta server.
[WARNING] DISTRIBUTED(18963,7efe5cc9c6c0,python):2026-11-23-00:12:24 [init.cc:123] operator()] Callback on exception \
is called.
[WARNING] DISTRIBUTED(18963,7efe5cc9c6c0,python):2026-11-23-00:12:24 [init.cc:135] operator()] Kill this process with \
SIGTERM.
"""
SCHEDULER = """\
Traceback (most recent call last):
  File "<string>", line 1, in <module>
RuntimeError: The total number of timed out node is 1. Timed out node list is: [const vector]{1}, worker 1 is the \
first one timed out, please check its log.
"""
HCCL = "[ERROR] HCCL(1,python):2024-01-01 [EI0002] The wait execution of the Notify register times out."


def kind(text: str, code: Optional[int] = 1, *, made_steps: bool = False) -> Optional[Kind]:
    clue = clue_of(text.splitlines(), code=code, made_steps=made_steps)
    return clue.kind if clue is not None else None


@pytest.mark.parametrize(
    "text",
    [RING, CLUSTER, SCHEDULER, HCCL, RING + CLUSTER, "ConnectionResetError: [Errno 104] Connection reset by peer",
     "torch.distributed.DistBackendError: NCCL error: remote process exited or there was a network error",
     "RuntimeError: [gloo/transport/tcp/pair.cc] Connection closed by peer [10.0.0.1]:41"],
)  # fmt: skip
def test_a_rank_that_lost_its_peers_says_nothing_of_a_cause_of_its_own(text: str) -> None:
    assert kind(text) is Kind.PEER


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Traceback\nValueError: boom", Kind.EXCEPTION),
        ("Traceback\nmy.package.OddError", Kind.EXCEPTION),
        ("Traceback\nModuleNotFoundError: No module named 'mindspore'", Kind.IMPORT_ERROR),
        ("Traceback\nNameError: name 'x' is not defined", Kind.USER_ERROR),
        ("Traceback\nTypeError: f() takes 0 positional arguments", Kind.USER_ERROR),
        ("Traceback\nOSError: [Errno 28] No space left on device", Kind.DISK_FULL),
        ("Traceback\nMemoryError", Kind.OUT_OF_MEMORY),
        ("terminate called after throwing an instance of 'std::bad_alloc'", Kind.OUT_OF_MEMORY),
        ("RuntimeError: bind failed: Address already in use", Kind.PORT_TAKEN),
        ("sknet.train: the loss is nan at epoch 1 step 3; lower --lr_max", Kind.NAN),
        ("ValueError: epoch: 1 step: 1. Invalid loss, terminating training.", Kind.NAN),
        ("all is well", None),
        (
            "[WARNING] DISTRIBUTED(6282) Connect] Connection refused. Retry to reconnect to the meta server",
            None,
        ),
        ("", None),
        ("Traceback\nKeyboardInterrupt", None),
        ("Traceback\nValueError: boom\n" + CLUSTER, Kind.EXCEPTION),
        ("[WARNING] the disk: No space left on device\nValueError: boom", Kind.EXCEPTION),
    ],
)
def test_the_last_words_of_a_rank_tell_its_own_cause(text: str, wanted: Optional[Kind]) -> None:
    assert kind(text) is wanted


def test_a_wrong_type_after_the_first_step_may_come_of_the_data() -> None:
    assert kind("TypeError: x", made_steps=True) is Kind.EXCEPTION


def test_exit_code_2_without_a_traceback_is_a_wrong_argument() -> None:
    assert kind("usage: train.py\ntrain.py: error: unrecognized arguments: --x", 2) is Kind.USER_ERROR
    assert kind("sknet.train: no dataset at /x", 2) is Kind.USER_ERROR
    assert kind("sknet.train: no dataset at /x", 1) is None


@given(st.lists(st.text(max_size=200), max_size=30), st.sampled_from([None, 0, 1, 2]))
def test_any_last_words_are_read(lines: "list[str]", code: Optional[int]) -> None:
    clue = clue_of(lines, code=code)
    assert clue is None or clue.line in [line.strip() for line in lines]
