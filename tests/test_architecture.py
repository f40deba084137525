"""Keeps true what design.md and ARCHITECTURE.md say of the direction of imports."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A part may import its own line and the lines below it. A new module of `orchestrator` gets a place here.
LAYERS = {
    "floor": ["orchestrator.supervisor", "orchestrator.probes"],
    "nouns": ["orchestrator", "orchestrator.errors", "orchestrator.inventory", "orchestrator.jobspec",
              "orchestrator.findings", "orchestrator.jobs", "orchestrator.templates", "orchestrator.strictyaml",
              "orchestrator.hostfiles"],
    "pure logic": ["orchestrator.plan", "orchestrator.loneplan", "orchestrator.ranktable", "orchestrator.runstate",
                   "orchestrator.hearsay", "orchestrator.policy", "orchestrator.conditions", "orchestrator.stalled",
                   "orchestrator.diagnosis", "orchestrator.clues", "orchestrator.verdict",
                   "orchestrator.tuning", "orchestrator.checks"],
    "edges": ["orchestrator.transport", "orchestrator.engines", "orchestrator.store", "orchestrator.render",
              "orchestrator.bundle", "orchestrator.farside", "orchestrator.checkup", "orchestrator.allreduce",
              "orchestrator.jobfiles", "orchestrator.textfiles", "orchestrator.datasets", "orchestrator.records",
              "orchestrator.download", "orchestrator.unpack", "orchestrator.packed"],
    "services": ["orchestrator.launch", "orchestrator.doctor", "orchestrator.monitor", "orchestrator.collect",
                 "orchestrator.evaluate", "orchestrator.evaluations", "orchestrator.models", "orchestrator.report",
                 "orchestrator.logs", "orchestrator.dashboard", "orchestrator.fetch", "orchestrator.sampler",
                 "orchestrator.hosts", "orchestrator.addresses", "orchestrator.ranktables", "orchestrator.controller",
                 "orchestrator.explain", "orchestrator.leftovers", "orchestrator.farlaunch", "orchestrator.attempts",
                 "orchestrator.farhosts", "orchestrator.mirror", "orchestrator.checkpoints", "orchestrator.copier",
                 "orchestrator.restarts", "orchestrator.resuming", "orchestrator.following", "orchestrator.drills",
                 "orchestrator.rehearsal", "orchestrator.quicklook", "orchestrator.collective"],
    "cli": ["orchestrator.cli"],
}  # fmt: skip
LAYER_OF = {part: layer for layer, parts in LAYERS.items() for part in parts}
HEIGHT = {layer: height for height, layer in enumerate(LAYERS)}

# A package that may be imported in one place only.
ONE_OWNER = {
    "click": "orchestrator.cli.",
    "rich": "orchestrator.cli.",
    "paramiko": "orchestrator.transport.ssh",
    "jinja2": "orchestrator.render",
    "pydantic": "orchestrator.strictyaml",
    "psutil": "orchestrator.supervisor.figures",
}
# What only looks at its arguments: a clock, a file, the environment or a network in it is a mistake.
PURE = ["orchestrator.plan", "orchestrator.runstate", "orchestrator.inventory", "orchestrator.jobspec",
        "orchestrator.errors", "orchestrator.findings", "orchestrator.policy", "orchestrator.ranktable",
        "orchestrator.supervisor.health",
        "orchestrator.diagnosis.rules", "orchestrator.diagnosis.places", "orchestrator.diagnosis.tracebacks",
        "orchestrator.diagnosis.scanning", "orchestrator.diagnosis.judging", "orchestrator.strictyaml",
        "orchestrator.hostfiles", "orchestrator.clues", "orchestrator.verdict", "orchestrator.loneplan",
        "orchestrator.conditions", "orchestrator.stalled",
        *(f"orchestrator.checks.{name}" for name in ("facts", "machine", "devices", "alike", "baseline", "pings",
                                                     "pairs")),
        *(f"orchestrator.probes.{name}" for name in ("npuinfo", "npuqueries", "network", "versions", "text")),
        ]  # fmt: skip
IMPURE_MODULES = {"os", "sys", "time", "datetime", "socket", "subprocess", "random", "secrets", "uuid", "tempfile",
                  "shutil", "glob", "io", "threading", "asyncio", "urllib", "http", "psutil", "logging"}  # fmt: skip
IMPURE_CALLS = {"open", "input", "print", "exec", "eval", "read_text", "read_bytes", "write_text", "write_bytes",
                "exists", "is_file", "is_dir", "stat", "resolve", "absolute", "expanduser", "iterdir", "mkdir",
                "unlink"}  # fmt: skip


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path for part in ("orchestrator", "sknet") for path in sorted((ROOT / part).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in SOURCES.items()}
OURS = [name for name in TREES if name.split(".")[0] == "orchestrator"]


def imports(tree: ast.AST) -> "Iterator[tuple[str, int]]":
    """Yield each module that is imported anywhere in *tree*, and the line; `from a import b` gives a.b if it is one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in TREES else str(node.module)), node.lineno


def imports_when_loaded(tree: ast.Module) -> "set[str]":
    """Return what a module imports as soon as it is imported, without what its functions import."""
    found: "set[str]" = set()
    queue: "list[ast.AST]" = [tree]
    while queue:
        node = queue.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update(name for name, _ in imports(ast.Module([node], [])))  # type: ignore[list-item]
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            queue.extend(ast.iter_child_nodes(node))
    return found


def part_of(module: str) -> str:
    """Return the entry of LAYERS that *module* belongs to: itself or the package that it lies in."""
    name = module
    while name:
        if name in LAYER_OF and (name != "orchestrator" or module == "orchestrator"):
            return name
        name = name.rpartition(".")[0]
    raise AssertionError(f"{module} has no place in tests/test_architecture.py LAYERS: say where it belongs")


def is_standard(package: str) -> bool:
    """Tell whether *package* comes with Python; 3.9 has no sys.stdlib_module_names."""
    spec = importlib.util.find_spec(package)
    origin = (spec.origin or "") if spec is not None else ""
    return origin in ("built-in", "frozen") or (
        origin.startswith(sysconfig.get_paths()["stdlib"]) and "site-packages" not in origin
    )


def test_there_is_something_to_look_at() -> None:
    assert {"orchestrator.plan", "orchestrator.supervisor.loop", "orchestrator.cli.main", "sknet.train"} <= set(TREES)


@pytest.mark.parametrize("module", OURS)
def test_a_module_imports_its_own_layer_and_those_below_only(module: str) -> None:
    layer = LAYER_OF[part_of(module)]
    for imported, line in imports(TREES[module]):
        if imported.split(".")[0] == "orchestrator":
            below = LAYER_OF[part_of(imported)]
            assert HEIGHT[below] <= HEIGHT[layer], (
                f"{SOURCES[module]}:{line}: {layer} may not import {below}: {imported}"
            )


@pytest.mark.parametrize("module", [name for name in OURS if LAYER_OF[part_of(name)] == "floor"])
def test_what_runs_on_hosts_needs_the_standard_library_only(module: str) -> None:
    for imported, line in imports(TREES[module]):
        known = imported.startswith(tuple(LAYERS["floor"])) or is_standard(imported.split(".")[0])
        assert known or imported == "psutil", f"{SOURCES[module]}:{line}: {imported}"
    assert "psutil" not in imports_when_loaded(TREES[module])


@pytest.mark.parametrize("module", sorted(TREES))
def test_a_package_with_one_owner_is_imported_there_only(module: str) -> None:
    for imported, line in imports(TREES[module]):
        owner = ONE_OWNER.get(imported.split(".")[0])
        if owner is not None:
            assert f"{module}.".startswith(owner), f"{SOURCES[module]}:{line}: only {owner} may import {imported}"


@pytest.mark.parametrize("module", sorted(TREES))
def test_the_orchestrator_and_the_model_do_not_know_one_another(module: str) -> None:
    foreign = {"mindspore", "sknet"} if module in OURS else {"orchestrator"}
    for imported, line in imports(TREES[module]):
        assert imported.split(".")[0] not in foreign, f"{SOURCES[module]}:{line}: {imported}"


@pytest.mark.parametrize("module", [name for name in PURE if name in TREES])
def test_pure_modules_do_not_touch_the_world(module: str) -> None:
    for imported, line in imports(TREES[module]):
        assert imported.split(".")[0] not in IMPURE_MODULES, f"{SOURCES[module]}:{line}: {imported}"
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            assert called not in IMPURE_CALLS, f"{SOURCES[module]}:{node.lineno}: {called}()"


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: {found for found, _ in imports(tree) if found in TREES} - {name} for name, tree in TREES.items()}
    done: "set[str]" = set()

    def visit(name: str, way: "tuple[str, ...]") -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for imported in sorted(graph[name]):
                visit(imported, (*way, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


@pytest.mark.parametrize("module", sorted(TREES))
def test_modules_stay_small_enough_to_be_read(module: str) -> None:
    lines = len(SOURCES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{SOURCES[module]} has {lines} lines: it probably has two jobs"


def modules_after(program: str) -> "set[str]":
    """Return the modules that a new interpreter has imported after running *program* from a checkout."""
    code = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print('\\n' + json.dumps(sorted(sys.modules))))\n" + program
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_is_instant_because_it_imports_nothing_heavy(arguments: "list[str]") -> None:
    loaded = modules_after(
        f"sys.argv = ['ascendrun', *{arguments!r}]\nfrom orchestrator.cli.main import main\nmain()\n"
    )
    heavy = {"mindspore", "paramiko", "jinja2", "pydantic", "rich", "yaml", "psutil", "numpy", "sqlite3", "asyncio"}
    assert not loaded & heavy
    assert "click" in loaded


def test_the_supervisor_starts_without_anything_of_the_layers_above() -> None:
    loaded = modules_after("import orchestrator.supervisor.main\n")
    above = {name for name in loaded if name.startswith("orchestrator.") and ".supervisor" not in name}
    assert not above
    assert not loaded & {"click", "pydantic", "yaml", "psutil", "rich"}
