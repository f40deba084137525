"""SKNet on MindSpore: train, evaluate and sample, with or without an orchestrator around it."""
