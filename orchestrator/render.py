"""Jinja2: our own templates, and those of users, which are kept from everything but what they are given."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from orchestrator.errors import AscendrunError, SpecError

if TYPE_CHECKING:
    import jinja2

_CPU_S = 10  # of a user's template; 80,000 ranks take two
_MEMORY_BYTES = 2 << 30
_MOST_TEXT = 256 << 20  # characters
# Without what Python puts first: the folder we stand in, whose `json.py` would be run.
_CHILD = "import sys; del sys.path[0]; from orchestrator.render import in_the_sandbox; in_the_sandbox()"


def render(template: str, **context: Any) -> str:
    """Return one of our own templates (`rank_table/1.0.json.j2`) filled in."""
    return _environment().get_template(template).render(context)


def render_users(text: str, source: str, context: "Mapping[str, Any]") -> str:
    """Return a user's template filled in with *context*, which is JSON.

    It is rendered in a process of its own that may use so much time and memory, reads and writes no file, and in
    Jinja2's sandbox, which hides the inside of Python. Raises SpecError naming *source* and the line.
    """
    order = json.dumps({"text": text, "source": source, "context": context})
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD],
            input=order.encode("utf-8", "surrogatepass"),
            capture_output=True,
            timeout=4 * _CPU_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise SpecError(f"{source}: the template does not come to an end; it was stopped after {4 * _CPU_S} s") from exc
    except OSError as exc:
        raise AscendrunError(f"cannot start {sys.executable}: {exc.strerror}") from exc
    if done.returncode < 0:
        raise SpecError(f"{source}: the template does not come to an end; it was stopped after {_CPU_S} s of work")
    try:
        answer = json.loads(done.stdout)
    except ValueError as exc:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise AscendrunError(f"{source}: rendering broke off: {said[-1] if said else 'no word why'}") from exc
    if "problem" in answer:
        raise SpecError(f"{source}{answer['place']}: {answer['problem']}")
    return str(answer["text"])


@cache
def _environment() -> "jinja2.Environment":
    import jinja2  # 60 ms, which most verbs need not spend

    loader = jinja2.PackageLoader("orchestrator.templates", "")
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["json"] = _json
    return environment


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def in_the_sandbox() -> None:
    """Render what stands on standard input; say on standard output what came of it."""
    import resource

    import jinja2
    import jinja2.sandbox

    order = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sandbox = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    sandbox.filters["json"] = _json
    answer: "dict[str, str]" = {"place": ""}
    try:
        text, parts = 0, []
        for part in sandbox.from_string(order["text"]).generate(order["context"]):
            text += len(part)
            if text > _MOST_TEXT:
                raise MemoryError
            parts.append(part)
        answer["text"] = "".join(parts)
        answer["text"].encode()  # half a character can be in no file
    except jinja2.TemplateSyntaxError as exc:
        answer.update(place=f":{exc.lineno}", problem=str(exc.message))
    except jinja2.TemplateError as exc:  # what it names is not there, or not for it
        answer.update(place=_line(exc), problem=str(exc.message))
    except MemoryError:
        answer["problem"] = "the template wants more memory than there is for it"
    except RecursionError:
        answer["problem"] = "the template calls itself without end"
    except Exception as exc:  # whatever the template's own expressions raise
        answer.update(place=_line(exc), problem=f"{type(exc).__name__}: {exc}")
    json.dump(answer, sys.stdout)


def _line(exc: BaseException) -> str:
    """Return `:LINE` of the template in which *exc* came up."""
    trace, line = exc.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line
