"""`python -m gpu_build` compiles every kernel for GPUs, and prints what each costs. It needs no GPU."""
