"""Reads and sets the tensors of a run by name, whether processes hold equal copies of them or shards."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from bfn.configs import TrainConfig, flatten
from bfn.model import BFN
from bfn.training import processes
from bfn.training.checkpoint import CheckpointError
from bfn.training.optimizers import kept_tensors

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def shard(model: BFN, device: torch.device) -> None:
    """Divides the weights into one shard for each process (FSDP2). The weights of a layer in a ModuleList are gathered
    while that layer is called, and all other weights while the model is called."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    lists = [module for module in reversed(list(model.modules())) if isinstance(module, nn.ModuleList)]
    for layer in (layer for layers in lists for layer in layers):
        if not isinstance(layer, (nn.ModuleList, nn.ModuleDict)):  # these are not called
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "reconstruction")


def copied(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's whole tensors on the CPU. Only the main process gets them."""
    return copies(get_model_state_dict(module, options=WHOLE))


def snapshot(model: BFN, averaged: BFN, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies of all tensors that resuming needs, as `copied` makes them. Training does not change them."""
    state: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=WHOLE)
    moments = state.get("state", {})  # only the main process has it
    weights, averages = (get_model_state_dict(module, options=WHOLE) for module in (model, averaged))
    return copies(flatten({"model": weights, "ema.module": averages, "optimizer": moments}))


def copies(tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def restore(
    tensors: dict[str, Tensor], model: BFN, averaged: BFN, optimizer: torch.optim.Optimizer, train: TrainConfig
) -> None:
    """Gives every process its copy or shard of the tensors that the main process has."""
    put(model, unprefixed("model.", tensors))
    put(averaged, unprefixed("ema.module.", tensors))
    if processes.from_main(bool(unprefixed("optimizer.", tensors))):  # there is no state before the first step
        state: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=WHOLE)
        if tensors:
            kept = stepped(tensors, model, train)
            state["state"] = {name: {one: tensors[f"optimizer.{name}.{one}"] for one in kept[name]} for name in kept}
        set_optimizer_state_dict(model, optimizer, state, options=spread(strict=False))


def stepped(tensors: dict[str, Tensor], model: BFN, train: TrainConfig) -> dict[str, tuple[str, ...]]:
    """The names of the optimizer's tensors for each parameter. A parameter that never had a gradient has none."""
    kept = kept_tensors(model, train)
    return {name: names for name, names in kept.items() if f"optimizer.{name}.{names[0]}" in tensors}


def put(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Sets a module's tensors in every process to the tensors that the main process has."""
    set_model_state_dict(module, dict(tensors), options=spread())


def fit(path: Path, tensors: dict[str, Tensor], model: BFN, train: TrainConfig) -> None:
    """Refuses tensors whose names or shapes differ from the tensors of a `snapshot` of this model."""
    shapes, number = {name: tensor.shape for name, tensor in model.state_dict().items()}, torch.Size([])
    tree: dict[str, Any] = {"model": shapes, "ema.module": shapes}
    for name, names in stepped(tensors, model, train).items():
        tree[f"optimizer.{name}"] = {one: number if one == "step" else shapes[name] for one in names}
    wanted = flatten(tree)
    found = {name: tensor.shape for name, tensor in tensors.items()}
    found.pop("ema.n_averaged", None)  # older versions wrote it
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            has, needs = (None if s is None else tuple(s) for s in (found.get(name), wanted.get(name)))
            reason = f"the shape of {name} is {has}, and must be {needs}"
            raise CheckpointError(f"checkpoint {path} does not fit this version of bfn: {reason}")


def finite(module: nn.Module) -> bool:
    """Whether all weights of a module in this process are finite."""
    return all(bool(weight.isfinite().all()) for weight in module.parameters())


def spread(strict: bool = True) -> StateDictOptions:
    return StateDictOptions(full_state_dict=True, broadcast_from_rank0=dist.is_initialized(), strict=strict)


def unprefixed(prefix: str, values: dict) -> dict:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
