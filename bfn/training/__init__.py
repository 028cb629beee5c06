"""Training: the run in a directory (trainer, runs, checkpoint, run_lock) and what its processes share (batches,
processes, states, shards)."""
