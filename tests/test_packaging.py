"""Keeps setup.cfg equal to what lies on disk: a package or a file that it forgets is missing after `pip install`."""

from __future__ import annotations

import configparser
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ("orchestrator", "sknet")


@pytest.fixture(scope="module")
def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines(text: str) -> "list[str]":
    return [line.strip() for line in text.splitlines() if line.strip()]


def pairs(text: str) -> "dict[str, str]":
    return {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines(text))}


def folder_of(package: str, config: configparser.ConfigParser) -> Path:
    moved = pairs(config["options"]["package_dir"])
    return ROOT / moved.get(package, package.replace(".", "/"))


def test_every_package_on_disk_is_listed_and_every_listed_one_is_on_disk(config: configparser.ConfigParser) -> None:
    listed = lines(config["options"]["packages"])
    on_disk = {
        ".".join(path.parent.relative_to(ROOT).parts) for part in CODE for path in (ROOT / part).rglob("__init__.py")
    }
    on_disk |= set(pairs(config["options"]["package_dir"]))
    assert sorted(listed) == sorted(on_disk)
    assert len(listed) == len(set(listed))


def test_every_package_has_the_init_file_without_which_it_cannot_be_installed(
    config: configparser.ConfigParser,
) -> None:
    for package in lines(config["options"]["packages"]):
        assert (folder_of(package, config) / "__init__.py").is_file(), package


def test_no_folder_with_code_is_without_an_init_file() -> None:
    for part in (*CODE, "jobs", "templates"):
        for path in (ROOT / part).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path


def test_every_file_that_is_no_code_is_package_data(config: configparser.ConfigParser) -> None:
    patterns = {package: lines(value) for package, value in config["options.package_data"].items()}
    packages = {folder_of(package, config): package for package in lines(config["options"]["packages"])}
    for part in (*CODE, "jobs", "templates"):
        for path in (ROOT / part).rglob("*"):
            if path.is_dir() or path.suffix in (".py", ".pyc"):
                continue
            owner = next(folder for folder in path.parents if folder in packages)
            below = path.relative_to(owner).as_posix()
            wanted = patterns.get(packages[owner], [])
            # In setuptools a star does not reach over a slash.
            assert any(p.count("/") == below.count("/") and fnmatch(below, p) for p in wanted), (
                f"{path.relative_to(ROOT)}: no pattern of [options.package_data] {packages[owner]} takes it along"
            )


def test_package_data_are_of_packages_that_are_listed(config: configparser.ConfigParser) -> None:
    assert set(config["options.package_data"]) <= set(lines(config["options"]["packages"]))


def test_there_are_job_files_to_install() -> None:
    assert {"sknet50.yaml", "sknet50-cpu.yaml"} <= {path.name for path in (ROOT / "jobs").glob("*.yaml")}


def test_the_command_and_the_version_can_be_imported_where_setup_cfg_says(config: configparser.ConfigParser) -> None:
    name, target = next(iter(pairs(config["options.entry_points"]["console_scripts"]).items()))
    module, _, function = target.partition(":")
    attribute = config["metadata"]["version"].replace("attr:", "").strip()
    program = (
        f"import importlib; assert callable(importlib.import_module({module!r}).{function})\n"
        f"import {attribute.rpartition('.')[0]}; assert {attribute}\n"
    )
    assert name == "ascendrun"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("path", ["LICENSE", "README.md"])
def test_files_that_setup_cfg_refers_to_are_there(path: str) -> None:
    assert (ROOT / path).is_file()


def test_an_extra_with_a_marker_stands_on_a_line_of_its_own(config: configparser.ConfigParser) -> None:
    for extra, text in config["options.extras_require"].items():
        for line in lines(text):
            assert line.count(";") <= 1, f"{extra}: {line}"
