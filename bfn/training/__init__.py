"""Training: the loop (trainer), the files of a run (runs, checkpoint, run_lock), what its processes share (batches,
processes, states), and the network's speed (speed)."""
