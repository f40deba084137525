"""What runs on a host and outlives whoever started it.

Standard library only (psutil for figures, where it is installed), Python 3.9 or later, and no
import from the rest of `orchestrator` but the parsers of `probes`, which look at devices: these two
travel to hosts that have nothing of ours.

The life of a supervisor:

1. It takes the lock of its run folder; where another supervisor holds it, it leaves at once.
2. It opens the journal. A new run: it starts a keeper for the processes of the host plan. A run that
   already has a journal: its supervisor was killed; it adopts the processes from what the keepers wrote.
3. It waits for events: a file of a keeper (a process started or ended), a request, or its own tick.
4. The first rank that fails, or a stop request, ends all others: SIGTERM to each process group,
   then SIGKILL when the grace is over, then whatever still carries the mark of the run.
5. When nothing is left it writes `run_finished` and leaves.

A keeper (`keeper.py`) is a small process that starts the ranks, waits for them and writes to disk how
they ended, so that this is known even if the supervisor was killed.
"""
