"""Train, evaluate and sample Bayesian flow networks (arXiv 2308.07037) on the ops of bfn_kernels."""
