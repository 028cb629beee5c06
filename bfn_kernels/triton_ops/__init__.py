"""The operators of the namespace `bfn_kernels_triton`: the schemas of csrc/bindings again.

What implements them stands under the operator's name in the module that SCHEMAS says, and is imported, Triton with it,
when an operator is first called. Most modules beside this one are what those share.
"""

import importlib
import os

import torch

NAMESPACE = "bfn_kernels_triton"

_ROWS = "Tensor[] rows, int which, float[] by"
_STEP = f"Tensor state, Tensor? data, {_ROWS}, Tensor? seed, Tensor? noise"
_PREDICTION = f"Tensor prediction, Tensor? mean, {_ROWS}, float low, float high"
_DISCRETE_UPDATE = (
    f"Tensor output_logits, Tensor state, {_ROWS}, int choice, Tensor? known, Tensor? known_mask, Tensor? seed, "
    "Tensor? noise, Tensor? draw_noise"
)
_NETWORK = "Tensor prediction, Tensor log_std, Tensor? mixture_logits, Tensor"
_DISCRETISED_UPDATE = (
    f"{_NETWORK} mean, Tensor[] flow, int flow_which, float[] flow_by, int parametrisation, int num_bins, int choice, "
    f"{_ROWS}, Tensor? known, Tensor? known_mask, Tensor? seed, Tensor? noise, Tensor? draw_noise, "
    "Tensor? component_noise"
)
SCHEMAS = {
    "continuous.triton": (
        f"gaussian_step({_STEP}) -> Tensor",
        f"gaussian_step_out({_STEP}, Tensor(a!) out) -> ()",
        f"predict_data({_PREDICTION}) -> Tensor",
        f"predict_data_backward(Tensor grad, {_PREDICTION}, bool need_prediction, bool need_mean) -> (Tensor, Tensor)",
        f"squared_loss(Tensor x, {_PREDICTION}, Tensor? mask, int reduction) -> (Tensor, Tensor)",
        f"squared_loss_backward(Tensor grad, Tensor scale, Tensor x, {_PREDICTION}, Tensor? mask, bool need_x, "
        "bool need_prediction, bool need_mean) -> (Tensor, Tensor, Tensor)",
    ),
    "discrete.triton": (
        f"discrete_sender(Tensor x, {_ROWS}, int num_classes, bool probs, Tensor? seed, Tensor? noise, "
        "ScalarType dtype) -> Tensor",
        f"discrete_update({_DISCRETE_UPDATE}) -> Tensor",
        f"discrete_update_out({_DISCRETE_UPDATE}, Tensor(a!) out) -> ()",
        f"discrete_loss(Tensor x, Tensor logits, {_ROWS}, Tensor? mask, int reduction, bool need_logits) "
        "-> (Tensor, Tensor, Tensor)",
        f"discrete_loss_backward(Tensor grad, Tensor scale, Tensor x, Tensor logits, {_ROWS}, Tensor? mask, "
        "Tensor stats) -> Tensor",
        f"discrete_nstep(Tensor x, Tensor logits, {_ROWS}, int n_steps, int receiver, int n_samples, float[] nodes, "
        "float[] node_weights, Tensor? seed, Tensor? noise, Tensor? mask, int reduction, bool need_logits) "
        "-> (Tensor, Tensor, Tensor)",
    ),
    "discretised.triton": (
        "expected_value(Tensor mean, Tensor std, Tensor? mixture_logits, int num_bins, bool clip, bool need_mean, "
        "bool need_std, bool need_mixture_logits) -> (Tensor, Tensor, Tensor, Tensor)",
        "discretised_choose(Tensor mean, Tensor std, Tensor? mixture_logits, int num_bins, int choice, Tensor? seed, "
        "Tensor? noise, Tensor? component_noise) -> Tensor",
        f"discretised_update({_DISCRETISED_UPDATE}) -> Tensor",
        f"discretised_update_out({_DISCRETISED_UPDATE}, Tensor(a!) out) -> ()",
        f"discretised_loss(Tensor x, {_NETWORK}? mean, {_ROWS}, int parametrisation, int num_bins, bool clip, "
        "int n_steps, int n_samples, float[] nodes, float[] node_weights, Tensor? seed, Tensor? noise, Tensor? mask, "
        "int reduction, bool need_prediction, bool need_log_std, bool need_mixture_logits) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    ),
    "triton_ops.reduction": ("scaled_gradient(Tensor saved, Tensor grad, Tensor? scale, ScalarType dtype) -> Tensor",),
    "triton_ops.rows": (
        "row_numbers(Tensor value, Tensor? rho, int which, float[] by, int[] shape, ScalarType dtype) -> Tensor",
    ),
}


def _implementation(module: str, name: str):
    def call(*arguments):
        return getattr(importlib.import_module(f"bfn_kernels.{module}"), name)(*arguments)

    return call


def define() -> torch.library.Library:
    """Defines the operators, on the GPU, and for Triton's interpreter on the CPU; they live as long as what is
    returned."""
    library = torch.library.Library(NAMESPACE, "DEF")
    keys = ["CUDA"] + ["CPU"] * (os.environ.get("TRITON_INTERPRET") == "1")
    for module, schemas in SCHEMAS.items():
        for schema in schemas:
            name = library.define(schema).split("::")[-1]
            for key in keys:
                library.impl(name, _implementation(module, name), key)
    return library
