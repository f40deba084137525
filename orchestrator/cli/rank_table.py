"""`ascendrun rank-table`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

import click

from orchestrator.cli import checks, output, reaching
from orchestrator.errors import HostError, SpecError, UserError
from orchestrator.inventory import HostEntry
from orchestrator.ranktable.model import VERSIONS, RankTable
from orchestrator.ranktable.products import PRODUCTS

if TYPE_CHECKING:
    from orchestrator.addresses import Found

_INVALID = UserError.exit_code

_out = click.option("-o", "--output", "out", metavar="FILE", help="Write to FILE, in one step.")
_order = click.option(
    "--order",
    metavar="FILE",
    help="Number the servers as FILE lists their ids, one a line; by default in the order of the ids as texts.",
)
_product = click.option(
    "--product",
    type=click.Choice(PRODUCTS),
    help="Whose rules count for groups of devices; by default what the hosts or the table tell.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("rank-table", invoke_without_command=True, subcommand_metavar="[COMMAND]")
@reaching.hosts
@reaching.host
@reaching.way
@click.option(
    "--hccn",
    "records",
    multiple=True,
    metavar="[SERVER=]FILE",
    help="A server by its hccn.conf, or by what hccn_tool printed there; no host is asked. May be repeated.",
)
@click.option("--no-ask", is_flag=True, help="Ask no host: the hosts file says which devices and addresses there are.")
@click.option("--devices", metavar="LIST", help="Devices of each server: 8, 0,2 or 4-7; by default all.")
@click.option(
    "--visible-devices",
    metavar="LIST",
    help="Physical ids as a container counts them from 0: 4,5,6,7. --devices then means these counts.",
)
@click.option("--version", metavar="|".join(VERSIONS), help="Version of the table; by default as the devices ask for.")
@click.option(
    "--template", metavar="FILE", help="Write by a Jinja2 template of yours, which gets the table as `table`."
)
@click.option("--server-ip", metavar="ADDRESS", help="This machine's server_id; by default its own address.")
@_order
@_product
@_out
@click.pass_context
def command(
    ctx: click.Context,
    /,
    devices: Optional[str],
    visible_devices: Optional[str],
    version: Optional[str],
    template: Optional[str],
    order: Optional[str],
    product: Optional[str],
    out: Optional[str],
    **hosts: Any,
) -> int:
    """Write the rank table of this machine or of many hosts; or check, show, merge or convert tables.

    Addresses come from each host's hccn_tool, else from its /etc/hccn.conf, else from the hosts file. Ranks count
    through the servers in the order of their ids as texts, which MindSpore expects, and through each one's devices.

    \b
      ascendrun rank-table --devices 8 -o hccl_8p.json
      ascendrun rank-table --hosts hosts.yaml -o hccl.json
      ascendrun rank-table --hccn 10.0.0.11=a.conf --hccn 10.0.0.12=b.conf
      ascendrun rank-table check hccl.json
    """
    if ctx.invoked_subcommand is not None:
        for name in ctx.params:
            if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
                option = next(one.opts[-1] for one in ctx.command.params if one.name == name)
                raise click.UsageError(f"{option} stands before `{ctx.invoked_subcommand}`; options go behind it")
        return 0
    from orchestrator import ranktables
    from orchestrator.addresses import choose, visible_ids

    found = _found(**hosts)
    for note in (note for one in found for note in one.notes):
        output.say(note)
    visible = visible_ids(visible_devices) if visible_devices else ()
    chosen = [choose(one, devices, visible) for one in found]
    table, seen = ranktables.make(chosen, version, ranktables.server_order(order) if order else None)
    _emit(table, out, product or seen, template)
    return 0


@command.command("merge")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@_order
@_product
@_out
def merge(files: "tuple[str, ...]", order: Optional[str], product: Optional[str], out: Optional[str]) -> int:
    """Make one table of the servers of all FILEs, and number the ranks anew. Of one FILE: number them anew.

    \b
      ascendrun rank-table merge hccl_8p_*.json -o hccl_2s_16p.json
    """
    from orchestrator import ranktables
    from orchestrator.ranktable import building

    cured = ranktables.BY_WRITING | ranktables.BY_NUMBERING
    tables = [ranktables.usable(ranktables.load(name), cured) for name in files]
    _emit(building.merge(tables, ranktables.server_order(order) if order else None), out, product)
    return 0


@command.command("convert")
@click.argument("file")
@click.option("--version", metavar="|".join(VERSIONS), help="By default FILE's own: it is written anew.")
@_product
@_out
def convert(file: str, version: Optional[str], product: Optional[str], out: Optional[str]) -> int:
    """Write FILE as another version says it. Comments, wrong counts and numbers for texts are put right."""
    from orchestrator import ranktables
    from orchestrator.ranktable import building

    table = ranktables.usable(ranktables.load(file))
    _emit(building.convert(table, version or table.version), out, product)
    return 0


@command.command("show")
@click.argument("file")
@_json
def show(file: str, as_json: bool) -> int:
    """Show FILE as a table of servers and devices: in each place the rank and the device's address."""
    from dataclasses import asdict

    from orchestrator import ranktables

    reading = ranktables.load(file)
    table = ranktables.usable(reading)
    if as_json:
        output.print_json(asdict(table))
        return 0
    checks.show_rank_table(table)
    findings = ranktables.findings(reading)
    if findings:
        output.say(f"{checks.verdict(findings)}: `ascendrun rank-table check {file}` has them")
    return 0


@command.command("check")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--live", is_flag=True, help="Ask the servers, too, whether the table says the truth of them.")
@reaching.hosts
@reaching.way
@_product
@_json
def check(
    files: "tuple[str, ...]", live: bool, product: Optional[str], as_json: bool, hosts: Optional[str], **way: Any
) -> int:
    """Say what HCCL and MindSpore would refuse in each FILE, where it stands, and what to do; exit code 2 if anything.

    With --live each server_id is dialled by SSH, unless --hosts says otherwise.
    """
    from dataclasses import asdict

    from orchestrator import ranktables
    from orchestrator.findings import Severity

    if hosts and not live:
        raise click.UsageError("--hosts is for --live")
    results = {}
    for name in files:
        reading = ranktables.load(name)
        findings = ranktables.findings(reading, product)
        if live and reading.table is not None:
            findings += ranktables.differences(reading.table, _live(reading.table, hosts, **way))
        results[name] = findings
        if as_json:
            continue
        checks.show_findings(findings)
        click.echo(f"{output.plain(name)}: {checks.verdict(findings)}{checks.what_table(reading.table)}")
    if as_json:
        output.print_json(
            {
                name: [{**asdict(finding), "severity": finding.severity.value} for finding in findings]
                for name, findings in results.items()
            }
        )
    return _INVALID if any(one.severity is Severity.ERROR for found in results.values() for one in found) else 0


def _emit(table: RankTable, out: Optional[str], product: Optional[str], template: Optional[str] = None) -> None:
    from orchestrator import ranktables

    text, warnings = ranktables.text_of(table, product=product)
    for finding in warnings:
        output.say(f"{finding.problem}; {finding.remedy}")
    if template is not None:
        text = ranktables.text_by(template, table)
    if out in (None, "-"):
        click.echo(text, nl=False)
        return
    ranktables.write(text, out)
    output.say(f"wrote {out}{checks.what_table(table)}")


def _found(
    hosts: Optional[str],
    targets: "tuple[str, ...]",
    records: "tuple[str, ...]",
    no_ask: bool,
    server_ip: Optional[str],
    **way: Any,
) -> "list[Found]":
    """Return the servers that the options mean, in their order. Raises SpecError or HostError."""
    from orchestrator import addresses
    from orchestrator.hosts import load_inventory

    sources = [bool(hosts), bool(targets), bool(records)]
    if sum(sources) > 1:
        raise SpecError("--hosts, --host and --hccn each say which servers: give one of them")
    if records:
        if server_ip and len(records) > 1:
            raise SpecError("--server-ip is for one server: give each --hccn its own, as in --hccn 10.0.0.11=a.conf")
        return [_recorded(record, server_ip) for record in records]
    if not hosts and not targets:
        if no_ask:
            raise SpecError("--no-ask is for --hosts: without it there is only this machine to ask")
        entries: "tuple[HostEntry, ...]" = (addresses.this_machine(server_ip),)
    else:
        if server_ip:
            raise SpecError("--server-ip is for this machine alone; in a hosts file write server_id")
        entries = load_inventory(hosts, targets).entries
    if no_ask:
        return [addresses.told(entry) for entry in entries]
    answers = _ask(entries, **way)
    errors = [answer for answer in answers.values() if isinstance(answer, HostError)]
    if errors:
        for error in errors[1:]:
            output.say(str(error))
        raise errors[0]
    return [answer for answer in answers.values() if not isinstance(answer, HostError)]


def _recorded(record: str, server_ip: Optional[str]) -> "Found":
    from orchestrator import addresses, ranktables

    server_id, equals, name = record.partition("=")
    if not equals:
        server_id, name = server_ip or addresses.own_address(), record
    return addresses.of_record(ranktables.text_in(name, "hccn.conf"), name, server_id)


def _ask(entries: "tuple[HostEntry, ...]", **way: Any) -> "dict[str, Found | HostError]":
    from orchestrator import addresses
    from orchestrator.transport import fanout

    with fanout.open_all(entries, **way) as fleet:
        return fleet.each(addresses.ask)


def _live(table: RankTable, hosts: Optional[str], **way: Any) -> "dict[str, Found | HostError]":
    """Return what each server of *table* says of itself, by server_id."""
    from orchestrator import addresses
    from orchestrator.hosts import load_inventory

    ids = [server.server_id for server in table.servers]
    if hosts:
        entries = {entry.server_id or entry.address: entry for entry in load_inventory(hosts).entries}
    else:
        mine = addresses.own_addresses()
        entries = {one: addresses.this_machine(one) if one in mine else HostEntry(one, one) for one in ids}
    answers = _ask(tuple(entry for server_id, entry in entries.items() if server_id in ids), **way)
    return {server_id: answers[entry.name] for server_id, entry in entries.items() if entry.name in answers}
