"""A user's template does what templates are for, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.render import render_users

TABLE = {"servers": [{"server_id": "a", "devices": [{"rank_id": 0}, {"rank_id": 1}]}]}


def rendered(text: str) -> str:
    return render_users(text, "mine.j2", {"table": TABLE})


def test_a_template_gets_the_table_and_a_json_filter() -> None:
    text = "{% for server in table.servers %}{{ server.server_id | json }}:{{ server.devices | length }}{% endfor %}\n"
    assert rendered(text) == '"a":2\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n{{ ''.__class__.__mro__ }}", "mine.j2:2"),
        ("{{ table.__init__.__globals__ }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "loader"),
        ("{% import 'os' as os %}", "loader"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "unsafe"),
        ("{{ open('/etc/passwd') }}", "'open' is undefined"),
        ("{{ table.nothing }}", "nothing"),
        ("\n\n{% for %}", "mine.j2:3"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 'a' * 10 ** 11 }}", "memory"),
        ("{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}", "memory"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "calls itself"),
        ("{{ range(10 ** 9) }}", "range"),
        ("{{ '\\ud800' }}", "surrogates"),
    ],
)
def test_a_hostile_or_broken_template_gets_a_clear_error(text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        rendered(text)
    assert str(caught.value).startswith("mine.j2")
    assert said.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)


def test_nothing_in_the_folder_we_stand_in_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "jinja2", "resource", "orchestrator"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    assert rendered("{{ table.servers | length }}") == "1"


def test_a_template_without_an_end_is_stopped(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(SpecError, match="does not come to an end"):
        rendered("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    assert time.monotonic() - began < 60


def test_a_table_may_hold_any_text() -> None:
    servers = [{"server_id": '" \\ \n \u2028 {{ 1 }}', "devices": []}]
    text = "{{ table.servers[0].server_id | json }}"
    assert render_users(text, "mine.j2", {"table": {"servers": servers}}).startswith('"')
