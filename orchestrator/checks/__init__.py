"""What `ascendrun doctor` judges: facts of hosts in, faults with remedies out. All of it is pure."""
