"""A rank of a ring: reads its rank table, and passes a token on over TCP between the devices' own addresses.

Rank 0 sends the token off; every rank adds its id, and rank 0 prints the whole way when the token is back.
"""

from __future__ import annotations

import json
import os
import socket
import time

PORT = 16666


def addresses() -> "list[str]":
    with open(os.environ["RANK_TABLE_FILE"], encoding="utf-8") as file:
        table = json.load(file)
    devices = [device for server in table["server_list"] for device in server["device"]]
    by_rank = {int(device["rank_id"]): device["device_ip"] for device in devices}
    return [by_rank[rank] for rank in range(len(by_rank))]


def dial(address: str, source: str) -> socket.socket:
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection((address, PORT), timeout=30, source_address=(source, 0))
        except ConnectionRefusedError:  # that rank is not up yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main() -> None:
    ring, rank = addresses(), int(os.environ["RANK_ID"])
    with socket.create_server((ring[rank], PORT)) as server:
        server.settimeout(60)
        onward = dial(ring[(rank + 1) % len(ring)], ring[rank])
        before, peer = server.accept()
        assert peer[0] == ring[rank - 1], f"rank {rank} was dialled from {peer[0]}, not from {ring[rank - 1]}"
        before.settimeout(60)
        if rank == 0:
            onward.sendall(b"0\n")
        token = before.makefile("rb").readline().decode().strip()
        if rank == 0:
            print("ring", token, flush=True)
        else:
            onward.sendall(f"{token} {rank}\n".encode())
        onward.close()
        before.close()


main()
