"""`ascendrun rank-table` as users meet it: files of all kinds, tools of others, live hosts, and a ring that closes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ASCENDRUN, SHARED, Cli
from tests.testbed.bed import Testbed

RECORDED = Path(__file__).resolve().parents[1] / "data/rank_tables/hccl_tools"
RING = Path(__file__).with_name("ring.py")
PLAIN = {
    "version": "1.0",
    "server_count": "1",
    "server_list": [
        {
            "server_id": "10.0.0.11",
            "device": [{"device_id": str(n), "device_ip": f"10.1.{n}.11", "rank_id": str(n)} for n in range(8)],
        }
    ],
    "status": "completed",
}


@pytest.fixture
def plain(cli: Cli) -> Path:
    """The file of a valid table."""
    path = cli.folder / "plain.json"
    path.write_text(json.dumps(PLAIN))
    return path


def refused(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """Check for one clear line, and no traceback."""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


# ── tables of others ───────────────────────────────────────────────────────────────────────────────────────


def _spelled_alike(value: Any) -> Any:
    """Return JSON with all whole numbers as texts: merge_hccl writes rank ids as numbers, HCCL wants texts."""
    if isinstance(value, dict):
        return {key: _spelled_alike(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_spelled_alike(inner) for inner in value]
    return str(value) if isinstance(value, int) else value


@pytest.mark.parametrize(
    ("record", "options", "recorded"),
    [
        ("172.16.0.21", [], "hccl_8p_01234567_172.16.0.21.json"),
        ("172.16.0.22", [], "hccl_8p_01234567_172.16.0.22.json"),
        ("172.16.0.21", ["--devices", "4-7"], "hccl_4p_4567_172.16.0.21.json"),
        ("172.16.0.21", ["--devices", "1"], "hccl_1p_0_172.16.0.21.json"),
    ],
)
def test_a_table_says_what_that_of_hccl_tools_says(cli: Cli, record: str, options: "list[str]", recorded: str) -> None:
    done = cli("rank-table", "--hccn", f"{record}={RECORDED / record}.hccn.conf", *options)
    assert json.loads(done.stdout) == json.loads((RECORDED / recorded).read_text())


def test_visible_devices_are_counted_as_hccl_tools_counts_them(cli: Cli) -> None:
    source = RECORDED / "172.16.0.21.hccn.conf"
    done = cli("rank-table", "--hccn", f"172.16.0.22={source}", "--visible-devices", "4,5,6,7", "--devices", "0-3")
    assert json.loads(done.stdout) == json.loads((RECORDED / "hccl_4p_0123_172.16.0.22.json").read_text())


@pytest.mark.parametrize(("servers", "recorded"), [(["21", "22"], "hccl_2s_16p"), (["21", "22", "23"], "hccl_3s_24p")])
def test_a_merged_table_says_what_that_of_merge_hccl_says(cli: Cli, servers: "list[str]", recorded: str) -> None:
    parts = [str(RECORDED / f"hccl_8p_01234567_172.16.0.{server}.json") for server in servers]
    done = cli("rank-table", "merge", *reversed(parts))  # whatever the order: servers count by their ids
    assert json.loads(done.stdout) == _spelled_alike(json.loads((RECORDED / f"{recorded}.json").read_text()))
    again = cli("rank-table", "check", str(RECORDED / f"{recorded}.json"))
    assert "warning spelling" in again.stdout


def _captures() -> "list[Path]":
    return sorted((SHARED / "ascend/captures/rank-tables").glob("[0-9]*[0-9].json"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the captures in ../shared are not there")
def test_captures_of_real_users_are_judged_as_their_truth_says(cli: Cli) -> None:
    captures = _captures()
    assert len(captures) > 10
    for path in captures:
        truth = json.loads(path.with_suffix("").with_suffix(".truth.json").read_text())
        done = cli("rank-table", "check", str(path), "--json", code=None)
        errors = {one["code"] for one in json.loads(done.stdout)[str(path)] if one["severity"] == "error"}
        assert (not errors) == truth["valid"], f"{path.name}: {errors} {truth['problem']}"
        assert done.returncode == (0 if truth["valid"] else 2)
        wanted = {"not IP": "address", "comments": "comment", "used twice": "device-twice", "not JSON": "not-json",
                  "trailing comma": "not-json"}  # fmt: skip
        for word, code in wanted.items():
            if word in (truth["problem"] or ""):
                assert code in errors, f"{path.name}: {errors}"
        if truth["valid"]:
            shown = json.loads(cli("rank-table", "show", str(path), "--json").stdout)
            assert len(shown["servers"]) == truth["servers"]
            assert sum(len(server["devices"]) for server in shown["servers"]) == truth["ranks"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the samples in ../shared are not there")
def test_samples_are_judged_as_their_names_say(cli: Cli) -> None:
    folder = SHARED / "ascend/samples/ranktable"
    reasons = {
        "910a_four_devices_bad_set_0126": "device-group", "910a_two_devices_across_groups": "device-group",
        "device_id_duplicate": "device-twice", "device_id_out_of_range": "device-group",
        "device_ip_duplicate": "address-twice", "mixed_ip_family": "address-family", "rank_id_duplicate": "rank-twice",
        "rank_id_gap": "rank-missing", "rank_ids_interleaved": "ranks-interleaved", "server_count_mismatch": "count",
        "status_initializing": "status", "truncated": "truncated", "uneven_device_counts_910a": "device-count",
        "v1.2_empty_super_device_id": "field-type", "v1.2_super_pod_list_server_missing": "super-pod",
        "with_comments": "comment", "v1.0_ascend_operator_initializing": "status",
    }  # fmt: skip
    paths = sorted(folder.rglob("*.json"))
    assert set(reasons) <= {path.stem for path in paths}
    for path in paths:
        product = ["--product", "910A"] if "910a" in path.stem else []
        done = cli("rank-table", "check", str(path), "--json", *product, code=None)
        errors = {one["code"] for one in json.loads(done.stdout)[str(path)] if one["severity"] == "error"}
        if path.stem in reasons:
            assert reasons[path.stem] in errors, f"{path.name}: {errors}"
        else:
            assert not errors, f"{path.name}: {errors}"


# ── files that are none, and places that cannot be written ─────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["check", "show", "merge", "convert"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "empty"),
        (b"\x00\xff\xfe", "UTF-8"),
        (b"x" * (65 << 20), "larger than 64 MiB"),
        (b"{" * 200_000, "not JSON"),
        (json.dumps(PLAIN).encode()[:300], "cut off"),
    ],
    ids=["missing", "empty", "binary", "huge", "deep", "cut"],
)
def test_a_file_that_is_no_table_gets_a_clear_error(cli: Cli, verb: str, content: "bytes | None", said: str) -> None:
    path = cli.folder / "table.json"
    if content is not None:
        path.write_bytes(content)
    done = cli("rank-table", verb, str(path), code=2)
    assert "Traceback" not in done.stderr
    assert said in done.stdout + done.stderr
    assert str(path) in done.stdout + done.stderr


def test_a_closed_standard_input_is_told(cli: Cli) -> None:
    done = subprocess.run(
        f"'{ASCENDRUN}' rank-table check - <&-", shell=True, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    refused(done, "standard input", "closed")


def test_a_mark_that_windows_sets_costs_no_device_and_is_put_right(cli: Cli, plain: Path) -> None:
    conf = cli.folder / "hccn.conf"
    conf.write_bytes(b"\xef\xbb\xbfaddress_0=10.1.0.11\r\naddress_1=10.1.1.11\r\n")
    devices = json.loads(cli("rank-table", "--hccn", f"10.0.0.11={conf}").stdout)["server_list"][0]["device"]
    assert devices == PLAIN["server_list"][0]["device"][:2]  # type: ignore[index]
    plain.write_text("\ufeff" + plain.read_text())
    assert "error byte-order-mark" in cli("rank-table", "check", str(plain), code=2).stdout
    assert json.loads(cli("rank-table", "convert", str(plain)).stdout) == PLAIN


def test_a_table_of_many_device_ids_is_shown_a_device_a_line(cli: Cli, plain: Path) -> None:
    table = json.loads(plain.read_text())
    table["server_list"] = [
        {"server_id": f"s{n}", "device": [{"device_id": str(n), "rank_id": str(n)}]} for n in range(5000)
    ]
    table["server_count"] = "5000"
    plain.write_text(json.dumps(table))
    words = ["bash", "-c", f"ulimit -v 1000000; exec '{ASCENDRUN}' rank-table show '{plain}'"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1].split() == ["s4999", "4999", "4999"]


def test_a_server_id_cannot_look_like_another_line(cli: Cli, plain: Path) -> None:
    table = json.loads(plain.read_text())
    table["server_list"][0].update(server_id="a\nplain.json: fine", host_ip="x")
    plain.write_text(json.dumps(table))
    said = cli("rank-table", "check", str(plain), code=2).stdout
    assert "plain.json: fine" not in said.splitlines()
    assert "a?plain.json: fine" in said


def test_an_endless_file_is_not_read_to_its_end(cli: Cli) -> None:
    refused(cli("rank-table", "show", "/dev/zero", code=2, timeout=60), "/dev/zero", "larger than 64 MiB")


def test_a_table_comes_from_standard_input_and_goes_to_a_pipe(cli: Cli, plain: Path) -> None:
    done = cli("rank-table", "convert", "-", "--version", "legacy", input=plain.read_text())
    assert json.loads(done.stdout)["group_list"][0]["device_count"] == "8"
    assert cli("rank-table", "convert", "-", "-o", "-", input=plain.read_text()).stdout.startswith("{")
    assert not (cli.folder / "-").exists()
    done = subprocess.run(
        f"'{ASCENDRUN}' rank-table show '{plain}' | head -n 1", shell=True, capture_output=True, text=True, check=True
    )
    assert done.stdout == "completed (version 1.0, 1 server, 8 ranks)\n"


@pytest.mark.parametrize(
    ("out", "said"), [("nowhere/t.json", "No such file"), (".", "folder"), ("plain.json/t.json", "Not a directory")]
)
def test_a_place_that_cannot_be_written_is_named(cli: Cli, plain: Path, out: str, said: str) -> None:
    refused(cli("rank-table", "convert", str(plain), "-o", out, code=2), out, said)


def test_a_full_disk_leaves_the_old_table_whole(cli: Cli, plain: Path) -> None:
    disk = cli.folder / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("making a small disk takes root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(disk)], check=True)
    try:
        (disk / "t.json").write_text("the old one")
        (disk / "fill").touch()
        big = json.loads(plain.read_text())
        big["note"] = "x" * 8192
        plain.write_text(json.dumps(big))
        refused(cli("rank-table", "convert", str(plain), "-o", str(disk / "t.json"), code=2), "No space left")
        assert sorted(path.name for path in disk.iterdir()) == ["fill", "t.json"]
        assert (disk / "t.json").read_text() == "the old one"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_comments_and_wrong_counts_are_put_right_by_writing_anew(cli: Cli, plain: Path) -> None:
    text = plain.read_text().replace('"server_count": "1"', '"server_count": "4" /* mine */')
    plain.write_text(text)
    assert "error comment" in cli("rank-table", "check", str(plain), code=2).stdout
    cli("rank-table", "convert", str(plain), "-o", str(plain))
    assert json.loads(plain.read_text()) == PLAIN
    assert cli("rank-table", "check", str(plain)).stdout.endswith(": fine (version 1.0, 1 server, 8 ranks)\n")


def test_ranks_that_are_wrong_are_put_right_by_merging(cli: Cli, plain: Path) -> None:
    wrong = json.loads(plain.read_text())
    for device in wrong["server_list"][0]["device"]:
        device["rank_id"] = str(int(device["rank_id"]) + 8)
    plain.write_text(json.dumps(wrong))
    assert json.loads(cli("rank-table", "merge", str(plain)).stdout) == PLAIN


def test_a_template_of_the_user_writes_what_it_likes(cli: Cli, plain: Path) -> None:
    template = cli.folder / "hosts.j2"
    template.write_text(
        "{% for server in table.servers %}{% for device in server.devices %}"
        "{{ device.device_ips[0] }} rank{{ device.rank_id }}\n{% endfor %}{% endfor %}"
    )
    conf = RECORDED / "172.16.0.21.hccn.conf"
    done = cli("rank-table", "--hccn", f"a={conf}", "--devices", "0-1", "--template", str(template))
    assert done.stdout == "10.20.21.5 rank0\n10.21.21.5 rank1\n"
    template.write_text("{{ ''.__class__ }}")
    refused(cli("rank-table", "--hccn", f"a={conf}", "--template", str(template), code=2), "hosts.j2:1", "unsafe")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices", "9"], "this host offers"),
        (["--devices", "0"], "at least one"),
        (["--devices", "0-3", "--visible-devices", "9"], "no device 9"),
        (["--visible-devices", "a,b"], "physical ids"),
        (["--visible-devices", "1,1"], "twice"),
        (["--version", "1.5"], "there is none such"),
        (["--version", "2.0"], "level_list"),
        (["--order", "nowhere"], "nowhere"),
        (["--product", "910A", "--devices", "3-4"], "HCCS group"),
        (["--hosts", "x.yaml"], "give one of them"),
        (["--template", "nowhere.j2"], "nowhere.j2"),
        (["--server-ip", "10.0.0.1", "--hccn", "b=b.conf"], "one server"),
        (["check"], "--hccn stands before"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(cli: Cli, words: "list[str]", said: str) -> None:
    conf = RECORDED / "172.16.0.21.hccn.conf"
    refused(cli("rank-table", "--hccn", f"10.0.0.11={conf}", *words, code=2), said)


def test_a_machine_without_ascend_says_so(cli: Cli) -> None:
    refused(cli("rank-table", code=3), "no Ascend device", "hosts file")


# ── launch ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_launch_refuses_a_table_that_hccl_would_refuse(cli: Cli, plain: Path) -> None:
    wrong = json.loads(plain.read_text())
    wrong["server_list"][0]["device"][3]["device_ip"] = "10.1.0.11"
    plain.write_text(json.dumps(wrong))
    refused(cli("launch", "--rank-table", str(plain), "--", "true", code=2), f"{plain}:1:", "10.1.0.11 is there twice")
    assert not (cli.folder / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rendezvous", "cluster"], "--rendezvous rank-table"),
        (["--devices", "2"], "all of them must run"),
        (["--devices", "9-12"], "no device"),
    ],
)
def test_launch_refuses_what_contradicts_the_table(cli: Cli, plain: Path, words: "list[str]", said: str) -> None:
    refused(cli("launch", "--rank-table", str(plain), *words, "--", "true", code=2), said)


def test_launch_gives_every_rank_the_table_and_nothing_of_a_cluster(cli: Cli, plain: Path) -> None:
    cli.environment.update(MS_ROLE="MS_WORKER", MS_SCHED_HOST="left.over")
    show = "import os; print(sorted((k, v) for k, v in os.environ.items() if k[:3] == 'MS_' or 'RANK' in k))"
    cli("launch", "--rank-table", str(plain), "--name", "r", "--", sys.executable, "-c", show)
    run = cli.run_dir("r")
    assert json.loads((run / "rank_table.json").read_text()) == PLAIN
    for rank in range(8):
        said = dict(eval((run / f"train_parallel{rank}/train.log").read_text()))  # what the program printed
        assert said["RANK_TABLE_FILE"] == str(run / "rank_table.json")
        assert said["RANK_ID"] == str(rank)
        assert not [name for name in said if name.startswith("MS_")]
    assert not (run / "scheduler").exists()


# ── hosts ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def table(cli: Cli, testbed: Testbed) -> Path:
    """The table of two test hosts, as ascendrun asks it together over SSH."""
    hosts = cli.folder / "hosts.txt"
    hosts.write_text("".join(f"{host.name}\n" for host in testbed.hosts[:2]))
    path = cli.folder / "hccl.json"
    cli("rank-table", "--hosts", str(hosts), "--ssh-config", str(testbed.ssh_config), "-o", str(path))
    return path


def test_live_hosts_are_asked_for_their_addresses(testbed: Testbed, table: Path) -> None:
    servers = json.loads(table.read_text())["server_list"]
    assert [server["server_id"] for server in servers] == [host.name for host in testbed.hosts[:2]]
    for server, host in zip(servers, testbed.hosts):
        assert [device["device_ip"] for device in server["device"]] == list(host.device_ips)


@pytest.mark.parametrize("tool", ["real", "gone"])
def test_without_hccn_tool_the_configuration_counts(cli: Cli, testbed: Testbed, tool: str) -> None:
    host = testbed.hosts[0]
    places = ["/usr/local/Ascend/driver/tools/hccn_tool", "/usr/local/sbin/hccn_tool"]
    if tool == "gone":
        testbed.exec(
            host, ["sh", "-c", 'for one; do if [ -e "$one" ]; then mv "$one" "$one.away"; fi; done', "sh", *places]
        )
    try:
        done = cli("rank-table", "--host", host.name, "--ssh-config", str(testbed.ssh_config))
    finally:
        if tool == "gone":
            testbed.exec(
                host,
                ["sh", "-c", 'for one; do if [ -e "$one.away" ]; then mv "$one.away" "$one"; fi; done', "sh", *places],
            )
    devices = json.loads(done.stdout)["server_list"][0]["device"]
    assert [device["device_ip"] for device in devices] == list(host.device_ips)
    assert ("hccn_tool gave no address" in done.stderr) == (tool == "gone")


def test_a_table_that_does_not_match_the_live_hosts_is_refused(cli: Cli, testbed: Testbed, table: Path) -> None:
    way = ["--ssh-config", str(testbed.ssh_config)]
    assert "fine" in cli("rank-table", "check", "--live", *way, str(table)).stdout
    old = testbed.hosts[1].device_ips[5]
    new = f"{old}9"
    table.write_text(table.read_text().replace(f'"{old}"', f'"{new}"'))
    done = cli("rank-table", "check", "--live", *way, str(table), code=2)
    assert f"device 5 of server {testbed.hosts[1].name} has the address {old}, the table says {new}" in done.stdout
    testbed.crash(testbed.hosts[1])
    done = cli("rank-table", "check", "--live", *way, str(table), code=2)
    assert "error host-silent" in done.stdout


def test_a_ring_over_two_hosts_closes_by_the_tables_own_addresses(cli: Cli, testbed: Testbed, table: Path) -> None:
    place = testbed.shared / "hccl.json"
    place.write_text(table.read_text())
    ranks = [(host, 8 * index + device) for index, host in enumerate(testbed.hosts[:2]) for device in range(8)]
    processes = []
    for host, rank in ranks:
        words = ["env", f"RANK_ID={rank}", "RANK_TABLE_FILE=/srv/shared/hccl.json", sys.executable, "-S", str(RING)]
        processes.append(subprocess.Popen(testbed.inside(host, words), stdout=subprocess.PIPE, text=True))
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * 16
    assert said[0] == f"ring {' '.join(map(str, range(16)))}\n"


def test_launch_makes_the_table_of_its_host_by_itself_and_the_ring_closes(testbed: Testbed) -> None:
    host = testbed.hosts[0]
    words = [ASCENDRUN, "launch", "--rendezvous", "rank-table", "--devices", "8", "--name", "ring", "--run-dir"]
    done = testbed.exec(host, [*words, "/srv/work/ring", "--", sys.executable, "-S", str(RING)], check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    log = testbed.exec(host, ["cat", "/srv/work/ring/ring/train_parallel0/train.log"]).stdout
    assert log == "ring 0 1 2 3 4 5 6 7\n"
    made = json.loads(testbed.exec(host, ["cat", "/srv/work/ring/ring/rank_table.json"]).stdout)
    assert [device["device_ip"] for device in made["server_list"][0]["device"]] == list(host.device_ips)
