"""How we reach a host: its files, its processes. `local` is the machine we run on."""
