from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.hostfiles import Target
from orchestrator.inventory import Device, HostEntry, Inventory

WHOLE = """\
defaults:
  user: train
  port: 2222
  setup: |
    source /usr/local/Ascend/ascend-toolkit/set_env.sh
    export A='b c'
hosts:
  - node[01-02]
  - me@node9:22
  - name: last
    address: 192.0.2.7
    user: root
    identity_file: ~/.ssh/my key
    jump: me@gateway:2200,inner
    devices: {4: 192.0.2.104, 1: "2001:db8::1"}
    server_id: 192.0.2.7
    super_pod_id: "0"
    python: /opt/python3.11/bin/python3
    work_folder: ~/work folder
    setup: [module load cann]
    spare: true
"""


def test_a_whole_hosts_file_is_read() -> None:
    first, second, third, last = Inventory.parse(WHOLE, "hosts.yaml").entries
    setup = ("source /usr/local/Ascend/ascend-toolkit/set_env.sh", "export A='b c'")
    assert first == HostEntry("node01", "node01", "train", 2222, setup=setup)
    assert second.name == "node02"
    assert (third.name, third.user, third.port) == ("node9", "me", 22)
    assert last == HostEntry(
        name="last",
        address="192.0.2.7",
        user="root",
        port=2222,
        identity_file="~/.ssh/my key",
        jump="me@gateway:2200,inner",
        devices=(Device(1, "2001:db8::1"), Device(4, "192.0.2.104")),
        server_id="192.0.2.7",
        super_pod_id="0",
        python="/opt/python3.11/bin/python3",
        setup=("module load cann",),
        work_folder="~/work folder",
        spare=True,
    )
    assert last.jumps() == (Target("gateway", "me", 2200), Target("inner"))


def test_every_field_of_an_entry_can_be_written_in_a_hosts_file() -> None:
    named = {field.name for field in fields(HostEntry)}
    assert named <= {line.split(":")[0].strip(" -") for line in WHOLE.splitlines()}


@pytest.mark.parametrize(
    ("devices", "ids"),
    [("8", [0, 1, 2, 3, 4, 5, 6, 7]), ("'0-1,6'", [0, 1, 6]), ("[3, 1]", [1, 3]), ("[{device_id: 5}, 2]", [2, 5])],
)
def test_devices_are_a_count_a_range_or_a_list(devices: str, ids: "list[int]") -> None:
    (entry,) = Inventory.parse(f"hosts: [{{name: a, devices: {devices}}}]", "f").entries
    assert entry.devices is not None
    assert [device.device_id for device in entry.devices] == ids


def test_a_bare_yaml_list_is_a_hosts_file_too() -> None:
    assert [entry.name for entry in Inventory.parse("- a\n- name: b\n  port: 23\n", "f").entries] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("worker-1 slots=8\nworker-2 slots=8\n", ["worker-1", "worker-2"]),
        ("# a comment: first\nnode[01-02]", ["node01", "node02"]),
        ("[2001:db8::1]:2222\n", ["2001:db8::1"]),
        ("2001:db8::1\n", ["2001:db8::1"]),
        ("me@a:2222\n", ["a"]),
    ],
)
def test_what_people_have_already_is_recognised(text: str, names: "list[str]") -> None:
    assert [entry.name for entry in Inventory.parse(text, "f").entries] == names


def test_slots_are_that_many_devices() -> None:
    (entry,) = Inventory.parse("worker-1 slots=2\n", "f").entries
    assert entry.devices == (Device(0), Device(1))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "f: no host"),
        ("hosts: []", "f: no host"),
        ("hosts: 3", "a list `hosts:`"),
        ("hosts:\n", "a list `hosts:`"),
        ("host:\n - a", "a list `hosts:`"),
        ("hosts: [a]\ndefault: {}", "f:2:1: unknown field 'default'; did you mean 'defaults'"),
        ("hosts: [a]\ndefaults: {name: x}", "f:2:12: unknown field 'name'"),
        ("hosts:\n- adress: a", "f:2:3: unknown field 'adress'; did you mean 'address'"),
        ("hosts:\n- name: a\n  1: b", "f:3:3: unknown field '1'"),
        ("hosts:\n- name: a\n  name: b", "f:3:3: 'name' is given twice"),
        ("hosts:\n- user: a", "f:2:3: the field 'name' is missing"),
        ("hosts:\n- name: 7", "f:2:3: name: .*valid string"),
        ("hosts:\n- 7", "f:2:3: a host is a name or a mapping"),
        ("hosts:\n- [a]", "f:2:3: a host is a name or a mapping"),
        ("hosts:\n- name: a\n  port: ssh", "f:3:3: port: "),
        ("hosts:\n- name: a\n  port: 70000", "70000 is no port"),
        ("hosts:\n- name: ../x", "name '../x'"),
        ("hosts:\n- name: -oProxyCommand=x", "name '-oProxyCommand=x'"),
        ("hosts:\n- name: a\n  user: -lroot", "cannot be a user"),
        ('hosts:\n- name: a\n  user: "a b"', "cannot be a user"),
        ("hosts:\n- name: a\n  jump: 'me@b c'", "jump"),
        ("hosts:\n- name: a\n  jump: '@b'", "user before '@' is missing"),
        ("hosts:\n- name: a\n  work_folder: work", "begin it with / or ~/"),
        ('hosts:\n- name: a\n  python: "a\\0b"', "python"),
        ("hosts:\n- name: a\n  devices: true", "devices: give a count"),
        ("hosts:\n- name: a\n  devices: 0", "f:3:3: devices: 0: a run needs at least one"),
        ("hosts:\n- name: a\n  devices: [1, 1]", "unique"),
        ("hosts:\n- name: a\n  devices: {0: 10.0.0.256}", "no IPv4 or IPv6 address"),
        (
            "hosts:\n- name: a\n  devices: [{device_id: 0, ip: 10.0.0.1}]",
            "f:3:28: unknown field 'devices.0.ip'; known: device_id, device_ip",
        ),
        ("hosts:\n- name: a\n  devices: [x]", "devices"),
        ("hosts:\n- name: a\n- name: a", "host a is named twice"),
        ("a\nb\na", "host a is named twice"),
        ("hosts:\n- {name: a, address: x}\n- {name: b, address: x}", "hosts a and b are the same machine: x"),
        ("hosts:\n- a\n- b[", "f:3:3:1: 'b\\[': a bracket is not closed"),
        ("hosts: [a", r"f:1:10: .*\(YAML\)"),
        ("hosts: !!python/object/apply:os.system [id]", r"\(YAML\)"),
        ("a\0b", "no text file"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_the_nearest_key(text: str, told: str) -> None:
    with pytest.raises(SpecError, match=told) as caught:
        Inventory.parse(text, "f")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_targets_of_the_command_line_are_an_inventory() -> None:
    entries = Inventory.of_targets(["me@node1:2222", "node[2-3]"]).entries
    assert [(entry.name, entry.user, entry.port) for entry in entries] == [
        ("node1", "me", 2222),
        ("node2", None, None),
        ("node3", None, None),
    ]


@pytest.mark.parametrize(("entry", "wanted"), [
    (HostEntry("a", "localhost"), True),
    (HostEntry("localhost", "localhost", user="me"), False),
    (HostEntry("localhost", "localhost", port=22), False),
    (HostEntry("localhost", "127.0.0.1"), False),
])  # fmt: skip
def test_localhost_without_user_and_port_is_this_machine(entry: HostEntry, wanted: bool) -> None:
    assert entry.is_this_machine() is wanted


@given(st.text(max_size=80))
def test_any_text_is_an_inventory_or_a_spec_error_in_one_line(text: str) -> None:
    try:
        assert Inventory.parse(text, "f").entries
    except SpecError as exc:
        assert str(exc).startswith("f") and len(str(exc).splitlines()) == 1


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["a", "b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([field.name for field in fields(HostEntry)]) | st.text(max_size=4), inner)
    ),
    max_leaves=12,
)


@given(_values)
def test_any_yaml_is_an_inventory_or_a_spec_error(document: object) -> None:
    import yaml

    try:
        assert Inventory.parse(yaml.safe_dump({"hosts": document}, allow_unicode=True), "f").entries
    except SpecError as exc:
        assert str(exc).startswith("f")
