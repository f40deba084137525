"""How an explanation looks on the terminal, and as JSON."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

import click

from orchestrator.cli import output
from orchestrator.diagnosis.rules import Category, Language

if TYPE_CHECKING:
    from orchestrator.explain import Report

_SHOWN_BYTES = 300  # of a line of evidence

_EN = {
    "cause": "cause", "category": "category", "retry": "a retry helps", "first": "first", "where": "where",
    "remedy": "remedy", "evidence": "evidence", "waited": "waited for it", "also": "also found", "yes": "yes",
    "no": "no", "unknown": "unknown", "rank": "rank", "nothing": "no rule knows what these logs say",
    "only": "these logs say that it failed, not why: {cause}",
    "suspects": "waited for",
}  # fmt: skip
_ZH = {
    "cause": "原因", "category": "类别", "retry": "重试是否有用", "first": "最先出错", "where": "位置",
    "remedy": "处理", "evidence": "依据", "waited": "等待它的", "also": "另外发现", "yes": "是", "no": "否",
    "unknown": "未知", "rank": "rank", "nothing": "没有规则认得这些日志的内容",
    "only": "日志只说明失败，未说明原因：{cause}",
    "suspects": "被等待的",
}  # fmt: skip
_ZH_CATEGORIES = {
    Category.NETWORK: "网络",
    Category.DEVICE: "设备",
    Category.MEMORY: "内存",
    Category.CONFIGURATION: "配置",
    Category.USER_CODE: "用户代码",
    Category.ENVIRONMENT: "环境",
    Category.STORAGE: "存储",
    Category.OTHER: "其他",
}


def show(report: "Report", language: Language, *, short: bool = False) -> None:
    """Print an explanation; *short*: what a person needs first."""
    explanation = report.explanation
    words = _ZH if language is Language.ZH else _EN
    told = explanation.words(language)
    cause = words["nothing"]
    if told is not None:
        cause = told.cause if explanation.known else words["only"].format(cause=told.cause)
    rows = [(words["cause"], click.style(_line(cause), bold=True))]
    if not short:
        rows.append((words["category"], _category(explanation.category, language, words)))
        rows.append((words["retry"], _yes(explanation.retriable, words)))
    if explanation.first_rank is not None and not short:
        ending = f": {explanation.ending}" if explanation.ending else ""
        rows.append((words["first"], f"{words['rank']} {explanation.first_rank}{ending}"))
    elif explanation.suspects and not short:
        rows.append((words["suspects"], f"{words['rank']} {_ranks(explanation.suspects)}"))
    if explanation.place:
        rows.append((words["where"], _line(explanation.place)))
    if told is not None:
        rows.append((words["remedy"], _line(told.remedy)))
    waiting = [rank for rank in explanation.waiting if rank != explanation.first_rank]
    if waiting and not short:
        rows.append((words["waited"], f"{words['rank']} {_ranks(waiting)}"))
    for rule, details, rank in explanation.also[: 0 if short else 3]:
        of = f"{words['rank']} {rank}: " if rank is not None else ""
        rows.append((words["also"], _line(f"{of}{rule.words(language, details).cause}")))
    for one in explanation.evidence[: 1 if short else None]:
        of = f"{words['rank']} {one.rank}, " if one.rank is not None else ""
        rows.append((words["evidence"], _line(f"{of}{one.log}:{report.lines[one]}: {one.text[:_SHOWN_BYTES]}")))
    for head, text in rows:
        click.echo(f"{head}: {text}")


def as_json(report: "Report", language: Language) -> "dict[str, Any]":
    """Return what `--format json` prints. Fields are only ever added."""
    explanation = report.explanation
    told = explanation.words(language)
    return {
        "known": explanation.known,
        "code": explanation.rule.code if explanation.rule else None,
        "cause": told.cause if told else None,
        "category": explanation.category.value if explanation.category else "unknown",
        "retriable": explanation.retriable,
        "remedy": told.remedy if told else None,
        "source": explanation.rule.source if explanation.rule else None,
        "first_rank": explanation.first_rank,
        "ending": explanation.ending,
        "place": explanation.place,
        "suspects": list(explanation.suspects),
        "waiting": list(explanation.waiting),
        "evidence": [
            {"rank": one.rank, "file": one.log, "line": report.lines[one], "text": one.text, "at": one.at}
            for one in explanation.evidence
        ],
        "also": [{"code": rule.code, "rank": rank} for rule, _, rank in explanation.also],
        "files": report.files,
        "bytes": report.size_bytes,
        "notes": list(report.notes),
    }


def _line(text: str) -> str:
    return output.plain(text).replace("\n", "?")


def _category(category: Optional[Category], language: Language, words: "dict[str, str]") -> str:
    if category is None:
        return words["unknown"]
    return _ZH_CATEGORIES[category] if language is Language.ZH else category.value


def _yes(value: Optional[bool], words: "dict[str, str]") -> str:
    return words["unknown"] if value is None else words["yes" if value else "no"]


def _ranks(ranks: "Sequence[int]") -> str:
    from orchestrator.inventory import spell_ids

    return spell_ids(sorted(ranks))


def language_of(chosen: Optional[str]) -> Language:
    """Return the language that was chosen, else that of the user's locale, else English."""
    if chosen is None:
        locale = next(filter(None, (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
        chosen = "zh" if locale.startswith("zh") else "en"
    return Language(chosen)
