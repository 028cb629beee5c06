"""Train, evaluate and sample Bayesian flow networks (arXiv 2308.07037) on the ops of bfn_kernels."""

import os

# By default OpenMP's threads spin while they wait, and so take the processor from the threads they wait for: a step is
# ten times slower if the machine has other work. OpenMP reads this variable once, when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
