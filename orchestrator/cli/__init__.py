"""The command line: parse, call one service, print. Click lives here and nowhere else."""
