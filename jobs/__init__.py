"""The job files that come with ascendrun; installed as `orchestrator.jobs`."""
