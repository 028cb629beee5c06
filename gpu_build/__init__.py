"""`python -m gpu_build` compiles every kernel for GPUs, without one, and says what each costs."""
