"""Each rule by its examples, rules over logs in which nothing is wrong, and what is refused of a file of rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.diagnosis.judging import Log, explain
from orchestrator.diagnosis.places import Place
from orchestrator.diagnosis.rules import Category, Language, Role, Rules
from orchestrator.errors import SpecError
from orchestrator.explain import load_rules
from tests.orchestrator.diagnosis.conftest import Scans

HEALTHY = Path(__file__).resolve().parents[2] / "data" / "healthy"
EXAMPLES = [
    pytest.param(rule.code, example, id=f"{rule.code}-{number}")
    for rule in load_rules()
    for number, example in enumerate(rule.example)
]

RULE = """
- code: link-down
  category: network
  retriable: false
  text: ['link is down']
  pattern: 'port (?P<port>\\d+)'
  en: {cause: 'port {port} is down', remedy: look at it}
  zh: {cause: '端口 {port} 断开', remedy: 检查}
  source: a manual
  example: ['port 7: link is down']
"""


@pytest.mark.parametrize(("code", "example"), EXAMPLES)
def test_a_rule_is_the_first_that_is_found_in_its_example(code: str, example: str, scan: Scans) -> None:
    assert scan.rules[code].near is None or code == "dataset-workers-share-device"
    found = scan(f"epoch: 1 step: 1, loss is 2.3\n{example}\n").sightings
    assert found, "no rule is found"
    assert found[0].rule.code == code


@pytest.mark.parametrize("path", sorted(HEALTHY.iterdir()), ids=lambda path: path.name)
def test_no_rule_is_found_in_a_healthy_log(path: Path, scan: Scans) -> None:
    assert [(one.rule.code, one.text) for one in scan(path.read_bytes()).sightings] == []


def test_there_are_rules_for_the_whole_field(rules: Rules) -> None:
    assert len(rules) >= 150
    for category in Category:
        assert any(rule.category is category for rule in rules), category
    for role in Role:
        assert any(rule.role is role for rule in rules), role


def test_every_rule_speaks_both_languages(rules: Rules) -> None:
    for rule in rules:
        assert any("\u4e00" <= letter <= "\u9fff" for letter in rule.zh.cause + rule.zh.remedy), rule.code
        assert not any("\u4e00" <= letter <= "\u9fff" for letter in rule.en.cause + rule.en.remedy), rule.code


def test_words_name_what_the_pattern_found() -> None:
    rule = Rules.parse(RULE, "rules.yaml")["link-down"]
    assert rule.words(Language.EN, {"port": "7"}).cause == "port 7 is down"
    assert rule.words(Language.ZH, {"port": "7"}).cause == "端口 7 断开"
    assert rule.words(Language.EN, {}).cause == "port ? is down"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("category: network", "category: weather", "rules.yaml:3:3: category"),
        ("  source: a manual\n", "", "'source' is missing"),
        ("  source:", "  sauce:", "unknown field 'sauce'; did you mean 'source'?"),
        ("port (?P", "port ((?P", "is not a regular expression"),
        ("'port {port} is down'", "'{host} is down'", "{host}: the pattern has no group of that name"),
        ("['link is down']", "['down']", "give texts of 5 bytes at least"),
        ("['link is down']", "['link####']", "a family of codes is written as `E1####` or `107###`"),
        ("['port 7: link is down']", "[]", "without one the rule cannot be tested"),
        ("code: link-down", "code: Link down", "lower-case words with hyphens between them"),
        ("remedy: look at it}", "remedie: look at it}", "unknown field 'en.remedie'; did you mean 'remedy'?"),
    ],
)
def test_a_mistake_in_a_rule_is_told_with_its_place(before: str, after: str, told: str) -> None:
    assert before in RULE
    with pytest.raises(SpecError) as caught:
        Rules.parse(RULE.replace(before, after), "rules.yaml")
    assert told in str(caught.value)
    assert str(caught.value).startswith("rules.yaml:")


# Codes that no rule names one by one, in the forms in which CANN, ACL, HCCL and torch_npu write them.
OF_FAMILIES = [
    ("EZ1234: something", "user code"),
    ("[PID: 7] 2026-01-05-03:04:05.000.001 Bad_Thing(EE1234): something", "user code"),
    ("E13579: something", "user code"),
    ("EB1234[PID: 7] something", "user code"),
    ("E24680: something", "environment"),
    ("E31234: something", "environment"),
    ("EK0009: something", "configuration"),
    ("NPU function error: aclrtFoo, error code is 107017", "user code"),
    ("foo failed, runtime result = 107017.[FUNC:ReportCallError]", "user code"),
    ("call aclnnFoo failed, error code is 561109", "environment"),
    ("foo failed, runtime result = 507043.[FUNC:ReportCallError]", "user code"),
    ("HCCL function error: HcclAllReduce(x), error code is 5", "user code"),
    ("ERR02011 DIST timeout", "other"),
    ("EZ9999: something", None),
    ("foo failed, runtime result = 507021.[FUNC:ReportCallError]", None),
    ("step 107017 of 561109 took 507043 ms", None),
    ("address 0xE13579 and file E13579.bin", None),
]


@pytest.mark.parametrize(("line", "category"), OF_FAMILIES)
def test_a_code_without_a_rule_of_its_own_is_known_by_its_family(line: str, category: str, scan: Scans) -> None:
    told = explain([Log("x.log", Place(), scan(f"{line}\n"))], scan.rules)
    assert (told.category.value if told.category else None) == category


def test_a_code_that_is_there_twice_is_refused() -> None:
    with pytest.raises(SpecError, match="'link-down' is there twice"):
        Rules.parse(RULE + RULE, "rules.yaml")


def test_rules_that_are_no_list_are_refused() -> None:
    with pytest.raises(SpecError, match="a list of mappings"):
        Rules.parse("code: x", "rules.yaml")
