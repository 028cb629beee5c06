"""Train, evaluate and sample Bayesian flow networks (arXiv 2308.07037) on the ops of bfn_kernels."""

import os

# By default OpenMP's threads spin for some milliseconds while they wait, which slows down other work on the machine. If
# they sleep at once, a compiled training step takes up to twice as long on a quiet machine. A short spin avoids both.
# OpenMP reads these variables once, when torch is first imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
