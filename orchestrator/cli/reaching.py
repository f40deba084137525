"""The options that say which hosts, and how they are reached: the same for every verb that has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import click

hosts = click.option(
    "--hosts", metavar="FILE", help="These hosts: a hosts.yaml, a hostfile, a node list, or a host a line."
)
host = click.option(
    "--host", "targets", multiple=True, metavar="[USER@]HOST[:PORT]", help="This host, or one more; may be repeated."
)


def way(function: "Callable[..., Any]") -> "Callable[..., Any]":
    """Add `ssh_config` (Optional[Path]) and `accept_new_host_keys` (bool), as `fanout.open_all` takes them."""
    for option in (
        click.option(
            "--accept-new-host-keys",
            is_flag=True,
            help="Take the keys of hosts that are dialled for the first time; changed ones are refused all the same.",
        ),
        click.option("--ssh-config", type=click.Path(path_type=Path), metavar="FILE", help="Instead of ~/.ssh/config."),
    ):
        function = option(function)
    return function
