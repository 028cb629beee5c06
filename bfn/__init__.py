"""Train, evaluate and sample Bayesian flow networks (arXiv 2308.07037) on the ops of bfn_kernels."""

import os

# Threads that wait for each other by spinning take the processor from those they wait for: on a machine with other
# work a step becomes ten times slower. OpenMP reads this once, when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
