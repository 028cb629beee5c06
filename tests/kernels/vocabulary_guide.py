"""The work of each process of test_sharded.py with the code of docs/guides/vocabularies.md. Every process imports this
module, so it imports no more than it needs."""

import os
import re
from pathlib import Path

import torch
from torch import distributed

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "vocabularies.md"


def follow(rank, count, folder):
    """Runs the page's code in one of `count` processes that share the classes. Then the first process runs it alone."""
    torch.set_num_threads(1)
    run(rank, count, Path(folder, str(rank)))
    if rank == 0:
        run(0, 1, Path(folder, "alone"))


def run(rank, count, to):
    """Runs the page's code, and writes the last loss, the gradients and the weights, all of them whole."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "localhost"}
    distributed.init_process_group("gloo", init_method=f"file://{to.parent}/meet{count}", rank=rank, world_size=count)
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    # The processes have met in a file by now: a port would have to be found. Fewer classes show the same in less time.
    code = code.replace('dist.init_process_group("gloo")', "").replace("128_000, 16, 2", f"4_000, 16, {count}")
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)
    tensors = {"loss": names["loss"].detach()}
    for name, parameter in names["model"].named_parameters():
        tensors |= {name: parameter.detach().full_tensor(), f"{name}.grad": parameter.grad.full_tensor()}
    torch.save(tensors, to)
    distributed.destroy_process_group()
