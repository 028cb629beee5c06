"""Train, evaluate and sample Bayesian flow networks (arXiv 2308.07037) on the ops of bfn_kernels."""

import os

# While a thread of OpenMP waits, it spins for some milliseconds by default, and slows down other work on the machine. If
# it sleeps at once, a compiled training step takes up to twice as long on a quiet machine. A short spin avoids both.
# OpenMP reads these variables once, when torch is first imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
