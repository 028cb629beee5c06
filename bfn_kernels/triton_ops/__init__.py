"""The operators of the namespace `bfn_kernels_triton`: the schemas of csrc/bindings again.

What implements them stands under the operator's name in the module that SCHEMAS says, and is imported, Triton with it,
when an operator is first called. Most modules beside this one are what those share.
"""

import importlib
import os

import torch

NAMESPACE = "bfn_kernels_triton"

_DISCRETE_UPDATE = (
    "Tensor output_logits, Tensor state, Tensor beta, Tensor spread, int choice, Tensor? known, Tensor? known_mask, "
    "Tensor? seed, Tensor? noise, Tensor? draw_noise"
)
_NETWORK = (
    "Tensor prediction, Tensor log_std, Tensor? mixture_logits, Tensor? mean, Tensor? a, Tensor? b, "
    "int parametrisation, int num_bins"
)
_DISCRETISED_UPDATE = (
    "Tensor prediction, Tensor log_std, Tensor? mixture_logits, Tensor mean, Tensor? a, Tensor? b, "
    "int parametrisation, int num_bins, int choice, Tensor keep, Tensor take, Tensor std, Tensor? known, "
    "Tensor? known_mask, Tensor? seed, Tensor? noise, Tensor? draw_noise, Tensor? component_noise"
)
SCHEMAS = {
    "continuous.triton": (
        "gaussian_step(Tensor state, Tensor? a, Tensor? data, Tensor? b, Tensor? std, Tensor? seed, Tensor? noise) "
        "-> Tensor",
        "gaussian_step_out(Tensor state, Tensor? a, Tensor? data, Tensor? b, Tensor? std, Tensor? seed, "
        "Tensor? noise, Tensor(a!) out) -> ()",
        "predict_data(Tensor prediction, Tensor? mean, Tensor? a, Tensor b, float low, float high) -> Tensor",
        "predict_data_backward(Tensor grad, Tensor prediction, Tensor? mean, Tensor? a, Tensor b, float low, "
        "float high, bool need_prediction, bool need_mean) -> (Tensor, Tensor)",
        "squared_loss(Tensor x, Tensor prediction, Tensor? mean, Tensor? a, Tensor b, Tensor weight, Tensor? offset, "
        "float low, float high, Tensor? mask, int reduction) -> (Tensor, Tensor)",
        "squared_loss_backward(Tensor grad, Tensor x, Tensor prediction, Tensor? mean, Tensor? a, Tensor b, "
        "Tensor weight, float low, float high, Tensor? mask, bool need_x, bool need_prediction, bool need_mean) "
        "-> (Tensor, Tensor, Tensor)",
    ),
    "discrete.triton": (
        "discrete_sender(Tensor x, Tensor beta, Tensor spread, int num_classes, bool probs, Tensor? seed, "
        "Tensor? noise, ScalarType dtype) -> Tensor",
        f"discrete_update({_DISCRETE_UPDATE}) -> Tensor",
        f"discrete_update_out({_DISCRETE_UPDATE}, Tensor(a!) out) -> ()",
        "discrete_loss(Tensor x, Tensor logits, Tensor? weight, Tensor? mask, int reduction, "
        "bool need_logits) -> (Tensor, Tensor, Tensor)",
        "discrete_loss_backward(Tensor grad, Tensor x, Tensor logits, Tensor? weight, Tensor? mask, Tensor stats) -> "
        "Tensor",
        "discrete_nstep(Tensor x, Tensor logits, Tensor alpha, int n_steps, int receiver, int n_samples, "
        "float[] nodes, float[] node_weights, Tensor? seed, Tensor? noise, Tensor? mask, int reduction, "
        "bool need_logits) -> (Tensor, Tensor, Tensor)",
    ),
    "discretised.triton": (
        "expected_value(Tensor mean, Tensor std, Tensor? mixture_logits, int num_bins, bool clip, bool need_mean, "
        "bool need_std, bool need_mixture_logits) -> (Tensor, Tensor, Tensor, Tensor)",
        "discretised_choose(Tensor mean, Tensor std, Tensor? mixture_logits, int num_bins, int choice, Tensor? seed, "
        "Tensor? noise, Tensor? component_noise) -> Tensor",
        f"discretised_update({_DISCRETISED_UPDATE}) -> Tensor",
        f"discretised_update_out({_DISCRETISED_UPDATE}, Tensor(a!) out) -> ()",
        f"discretised_loss(Tensor x, {_NETWORK}, bool clip, Tensor? weight, Tensor? alpha, int n_steps, "
        "int n_samples, float[] nodes, float[] node_weights, Tensor? seed, Tensor? noise, Tensor? mask, "
        "int reduction, bool need_prediction, bool need_log_std, bool need_mixture_logits) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    ),
    "triton_ops.rows": (
        "row_numbers(Tensor value, Tensor? rho, int[] shape, int schedule, float parameter, int num_classes, "
        "int n_steps, float scale, int which, ScalarType dtype) -> Tensor[]",
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
