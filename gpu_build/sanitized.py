"""A small call of each kind, for compute-sanitizer. Other tests compare the results with the reference."""

import torch

from bfn_kernels import binary, continuous, discrete, discretised
from bfn_kernels.backends import BACKENDS


def main(device: str = "cuda") -> None:
    """Calls every backend of the device by name, since only the best one would be used otherwise."""
    for backend in BACKENDS.values():
        if backend.missing is None and backend.device == device:
            _call(device, backend.name)
    if device == "cuda":
        torch.cuda.synchronize()


def _call(device: str, backend: str) -> None:
    x = torch.linspace(-1, 1, 5 * 333, device=device).view(5, 333)
    a, b = x.flip(0).requires_grad_(), (x - 2).requires_grad_()
    options = {"backend": backend}
    shared = {"sigma_1": 0.1, "num_bins": 16, **options}
    continuous.update_sample(x, x, 1.0, 2.0, seed=1, **options)
    continuous.continuous_time_loss(x, a, x, 0.5, sigma_1=0.1, **options).backward()
    discretised.continuous_time_loss(x, a, b, x, 0.5, **shared).backward()
    discretised.discrete_time_loss(x, a, b, x, step=5, n_steps=9, **shared).backward()
    discretised.update_sample(x, x - 2, x, 1.0, 0.5, 2.0, seed=1, **shared)
    bits, z = (x > 0).long(), x.flip(1).requires_grad_()
    binary.continuous_time_loss(bits, z, 0.5, beta_1=0.1, **options).backward()
    binary.discrete_time_loss(bits, z, step=5, beta_1=0.1, n_steps=9, n_samples=2, seed=1, **options).backward()
    binary.flow_sample(bits, 0.5, beta_1=0.1, seed=1, **options)
    binary.update_sample(z.detach(), z.detach(), 0.1, seed=1, **options)
    for num_classes in (4, 27, 257, 1000, 5000):  # for a lane, for lanes, for a block, and longer than a block holds
        z = torch.linspace(-3, 3, 14 * num_classes, device=device).view(2, 7, num_classes).requires_grad_()
        classes = torch.arange(14, device=device).view(2, 7) % num_classes
        discrete.continuous_time_loss(classes, z, 0.5, beta_1=0.1, **options).backward()
        discrete.discrete_time_loss(
            classes, z, step=5, beta_1=0.1, n_steps=9, n_samples=2, seed=1, **options
        ).backward()
        discrete.flow_sample(classes, 0.5, num_classes=num_classes, beta_1=0.1, seed=1, **options)
        discrete.update_sample(z.detach(), z.detach(), 0.1, seed=1, **options)
        logits, solved = z.detach(), {"beta_1": 0.1, "rule": "sde2", "seed": 1, **options}
        before = {"previous": logits.softmax(-1), "t_previous": 0.2, "predicted_out": torch.empty_like(logits)}
        discrete.solver_step(logits, logits, 0.4, 0.6, unconditional=logits, guidance=1.0, **before, **solved)


if __name__ == "__main__":
    main()
