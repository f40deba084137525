"""The command lines of export and predict: `--key=value` with the names, types and ranges of config.py, and words."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from sknet.config import check_range, convert, keys_of
from sknet.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are InputErrors of one line."""

    def __init__(self, usage: str, description: str) -> None:
        super().__init__(
            usage=usage,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def add_setting(self, name: str, **options: Any) -> None:
        """Take `--name` with the type, range and meaning that it has in training; absent it is None."""
        item = keys_of("eval")[name]
        options.setdefault("help", item.metadata["meaning"].replace("%", "%%"))
        self.add_argument(f"--{name}", type=typed(name), metavar="", **options)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; --help lists all")


def typed(name: str) -> Callable[[str], Any]:
    """Return what reads the text of a setting of config.py. It raises InputError, which argparse lets pass."""
    item = keys_of("eval")[name]

    def read(text: str) -> Any:
        value = convert(item, text)
        check_range(item, value)
        return value

    return read
