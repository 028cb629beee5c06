# ruff: noqa: E501  (a table: one case a line)
"""The table of cases, with the targets that each must meet. A new case is one line."""

import functools
import math
from dataclasses import dataclass, field, replace
from inspect import Parameter, signature

import torch
from torch import Tensor

import bfn_kernels
from bfn_kernels.schedules import VonMisesAccuracy

N_STEPS, DRAWS, NODES = 20, 10, 8
MESSAGES = 1000  # about an angle, as in CrysBFN
QUICK = 8  # a quick run has an eighth of the rows
ON_GPU = 16  # on a GPU, images and windows are this many times as many, since fewer would leave most of it idle
SIGMA_1 = 1e-3  # the value of the paper for CIFAR-10 with 256 bins
STD_MIN = 1e-3
SYMBOLS = {
    "continuous_time_loss": "L∞",
    "discrete_time_loss": "L_n",
    "flow_and_loss": "flow + L∞",
    "vocabulary_loss": "embedding + head + L∞",
}
ROWS = ("t", "alpha", "precision")  # inputs with one number per row
OUTPUTS = {  # the inputs of a loss that are outputs of the network
    "continuous": ("prediction",),
    "discretised": ("pred_mean", "pred_log_std"),
    "discrete": ("logits",),
    "binary": ("logits",),
    "circular": ("pred",),
}
OF_VOCABULARY = ("weight", "head", "bias", "hidden")  # the inputs with a gradient in a step with a large vocabulary
CLEAR = 1e-5  # the least probability of a class that is drawn for the gate
ALLOWED_OF_NUMBERS = 0.05  # the share of a float32 tensor [..., K] that a step with a large vocabulary may allocate
ALLOWED_PER_THREAD = 2**20  # bytes for each thread, in addition to outputs, gradients and stored gradients


@dataclass(frozen=True)
class Case:
    op: str  # "family.op"
    shape: tuple[int, ...]  # of the data; one time per row of the first dimension
    k: int = 0  # bins or classes; 0 for continuous and binary data
    options: dict = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    backward: bool = True  # whether gradients are computed, if the op has any
    # the targets; 0 means that there is none
    published: float = 0  # least speed relative to the published formulation
    closed: float = 0  # least speed relative to the best of the closed forms, eager or compiled
    eager: float = 0  # least speed relative to the eager closed form
    compiled: float = 0  # least speed relative to the compiled closed form
    unfused: float = 0  # least speed relative to our own ops that store [..., K]
    lighter: float = 0  # least memory of the published formulation relative to ours, beyond the weights' gradients
    products: float = 0  # largest ratio of our time to the time of the matrix products alone
    spread: float = 0  # largest ratio of the slowest to the fastest case among the cases that differ only in K
    per_class: bool = False  # whether `spread` compares times divided by K
    small: bool = False  # whether the overhead of a call takes most of the time; compared with eager only
    times: str = ""  # words for the shape of the times; if the last word is "expanded", our op gets expanded times
    within: float = 0  # largest ratio of our time to our time in the case `against`
    against: str = ""  # the other case with which the targets compare; "" is this case

    @property
    def family(self) -> str:
        return self.op.split(".")[0]

    @property
    def diff(self) -> tuple[str, ...]:
        if not (self.loss and self.backward):
            return ()
        found = OF_VOCABULARY if self.weights else OUTPUTS[self.family]
        return found[:1] if self.options.get("stacked") else found

    @property
    def loss(self) -> bool:
        return self.op.endswith("loss")

    @property
    def series(self) -> str:
        """The name of the case without its K."""
        name = self.op.split(".")[1]
        words = [self.family, SYMBOLS.get(name, name)]
        if "quadrature" in self.options:
            words.append(f"{self.options['quadrature']} nodes")
        if "n_samples" in self.options:
            words.append(f"{self.options['n_samples']} draws")
        if self.options.get("reuse"):
            words.append("out=")
        if self.times:
            words.append(self.times)
        if self.options.get("stacked"):
            words.append("stacked")
        if self.small:
            words.append("of 64 with backward" if self.diff else "of 64")
        return " ".join(words)

    @property
    def name(self) -> str:
        return f"{self.series} K={self.k}" if self.k else self.series

    @property
    def weights(self) -> int:
        """How many numbers the weights of a large vocabulary have."""
        width = self.options.get("width", 0)
        return self.k * (2 * width + 1) if width else 0

    @property
    def elements(self) -> int:
        """How many numbers a formulation computes if it visits every class or bin of every draw or node."""
        draws = max(self.options.get("n_samples", 1), self.options.get("quadrature", 1))
        return math.prod(self.shape) * max(self.k, 1) * draws

    @property
    def keywords(self) -> dict:
        """The keyword arguments of the op, which `bfn_kernels` and the competitors share."""
        found = {k: v for k, v in self.options.items() if k not in ("reuse", "stacked", "width")}
        if self.family == "circular":
            found["schedule"] = of_messages()
        if self.options.get("stacked"):
            found["pred_log_std"] = None
        family, name = self.op.split(".")
        parameters = signature(getattr(getattr(bfn_kernels, family), name)).parameters
        sizes = {"num_bins": self.k, "num_classes": self.k, "n_steps": N_STEPS}
        required = {k: v for k, v in sizes.items() if k in parameters and parameters[k].default is Parameter.empty}
        accuracy = {} if name == "update_sample" else {"sigma_1": SIGMA_1, "beta_1": beta_1(self.k or 2)}
        return required | {k: v for k, v in accuracy.items() if k in parameters} | found


@functools.cache
def of_messages() -> VonMisesAccuracy:
    """Accuracies close to CrysBFN's, with which the entropy falls linearly."""
    return VonMisesAccuracy(torch.logspace(-1, 0.9, MESSAGES, dtype=torch.float64))


def beta_1(k: int) -> float:
    """β₁ with the same K·β₁ as in the authors' configuration for text8. With a larger β₁, every step would saturate at
    once."""
    return 15.2 / k


def over_k(bins: tuple[int, ...], case: Case, **first) -> list[Case]:
    """The case for each number of bins or classes K. `first` has the targets of a single K, under the name `k<K>`."""
    return [replace(case, k=k, **first.get(f"k{k}", {})) for k in bins]


def of_atoms(op: str) -> list[Case]:
    """The op with a time for each node of graphs, and with these times expanded to the data's shape."""
    node = Case(op, ATOMS, times="per node", closed=2)
    wide = replace(node, times="per node, expanded", closed=0, within=1.1, against=node.name)
    return [node, wide]


def of_crystals(op: str, *atoms: int) -> list[Case]:
    """The op with a step for each atom, compared with code that draws all messages about the atom's coordinates."""
    return [Case(op, (count, 3), times=f"{count} atoms", published=1000) for count in atoms]


def of_tokens(k: int, shape: tuple[int, ...]) -> list[Case]:
    """The ops on tokens of a small vocabulary, such as SMILES."""
    least = {"continuous_time_loss": 2.5, "reconstruction_loss": 0, "flow_sample": 4, "update_sample": 4}
    return [Case(f"discrete.{op}", shape, k, eager=eager) for op, eager in least.items()]


CIFAR, TEXT8, TOKENS, MANY, FEW = (32, 3072), (52, 256), (4, 256), (100, 100_000), (1, 64)
SMILES, PIECES = (64, 128), (16, 128)  # strings of ChemBFN's 246 tokens, and fewer strings of 1000 tokens
ENLARGED = (CIFAR, TEXT8, SMILES, PIECES)  # see ON_GPU
ATOMS = (20_000, 3)  # the nodes of graphs, each with three coordinates
MNIST = (512, 784)
BATCH = {"binary": MNIST, "discrete": (416, 256), "discretised": CIFAR}  # of the paper's experiments, on one device
QUADRATURE, MONTE_CARLO = {"quadrature": NODES}, {"n_samples": DRAWS}
VERSUS_DRAWS = {"published": 120, "closed": 12, "against": f"discretised L_n {DRAWS} draws K=256"}

CASES = [
    *over_k((16, 64, 256, 4096, 65536), Case("discretised.continuous_time_loss", CIFAR, spread=2), k256={"published": 300, "closed": 40}),
    Case("discretised.continuous_time_loss", CIFAR, 256, {"stacked": True}, within=1.05, against="discretised L∞ K=256"),
    Case("discretised.discrete_time_loss", CIFAR, 256, MONTE_CARLO, published=100, closed=10),
    *over_k((16, 256, 4096, 65536), Case("discretised.discrete_time_loss", CIFAR, options=QUADRATURE, spread=3), k256=VERSUS_DRAWS),
    Case("discrete.discrete_time_loss", TEXT8, 27, MONTE_CARLO, published=150, closed=5),
    *over_k((4, 8, 13, 27, 64), Case("discrete.continuous_time_loss", TEXT8, published=5, eager=3, compiled=2)),
    *over_k((4, 8, 27, 64), Case("discrete.flow_sample", TEXT8, published=6, closed=3)),
    *over_k((4, 8, 27, 64), Case("discrete.update_sample", TEXT8, published=6, closed=3)),
    *over_k((4, 8, 27, 64), Case("discrete.theta", TEXT8, published=6, closed=3)),
    *of_tokens(246, SMILES),
    *of_tokens(1000, PIECES),
    Case("discrete.continuous_time_loss", TOKENS, 32000, published=15, closed=3),
    Case("discrete.flow_sample", TOKENS, 32000, published=10, closed=4),
    Case("discrete.update_sample", TOKENS, 32000, published=12, closed=8),
    *over_k((8000, 32000, 128000), Case("discrete.vocabulary_loss", TOKENS, options={"width": 256}, spread=1.3, per_class=True), k32000={"published": 2, "unfused": 1, "lighter": 30, "products": 1.6}),
    Case("binary.flow_sample", MNIST, published=6, closed=3),
    Case("binary.continuous_time_loss", MNIST, published=4, closed=2),
    Case("binary.reconstruction_loss", MNIST, backward=False, published=2, closed=2),
    Case("binary.update_sample", MNIST, published=6, closed=3),
    Case("binary.discrete_time_loss", MNIST, options=MONTE_CARLO),
    Case("binary.discrete_time_loss", MNIST, options=QUADRATURE, published=40, closed=4, against=f"binary L_n {DRAWS} draws"),
    Case("continuous.flow_sample", MANY, published=6, closed=6),
    Case("continuous.update_sample", MANY),
    Case("continuous.update_sample", MANY, options={"reuse": True}),
    Case("continuous.continuous_time_loss", MANY),
    Case("continuous.flow_sample", MANY, times="t expanded", within=1.1, against="continuous flow_sample"),
    Case("continuous.update_sample", MANY, times="t expanded", within=1.1, against="continuous update_sample"),
    Case("discretised.continuous_time_loss", CIFAR, 256, times="t expanded", within=1.1, against="discretised L∞ K=256"),
    *[case for op in ("flow_sample", "continuous_time_loss") for case in of_atoms(f"continuous.{op}")],
    *of_crystals("circular.flow_sample", 64, 256, 2560),
    *of_crystals("circular.renoise", 256),
    Case("circular.discrete_time_loss", ATOMS, published=2, eager=1.5),
    Case("binary.flow_and_loss", BATCH["binary"], options={"beta_1": 9.0}, published=1.5),
    Case("discrete.flow_and_loss", BATCH["discrete"], 27, {"beta_1": 0.5625}, published=1.5),
    Case("discretised.flow_and_loss", BATCH["discretised"], 16, {"sigma_1": math.sqrt(1e-3)}, published=1.5),
    Case("discretised.flow_and_loss", BATCH["discretised"], 256, published=1.5),
    Case("continuous.flow_sample", FEW, small=True, closed=1),
    Case("discrete.flow_sample", FEW, 27, small=True, closed=1),
    Case("continuous.continuous_time_loss", FEW, backward=False, small=True, closed=1),
    Case("continuous.continuous_time_loss", FEW, small=True, closed=1),
    Case("discretised.continuous_time_loss", FEW, 256, backward=False, small=True, closed=1),
    Case("discretised.continuous_time_loss", FEW, 256, small=True, closed=1),
    Case("discrete.continuous_time_loss", FEW, 27, backward=False, small=True, closed=1),
    Case("discrete.continuous_time_loss", FEW, 27, small=True, closed=1),
]  # fmt: skip


def as_passed(case: Case, tensors: dict) -> dict:
    """The tensors as our ops take them: numbers per row are expanded if the case says so."""
    if not case.times.endswith("expanded"):
        return tensors
    return {k: v.unsqueeze(-1).expand(case.shape) if k in ROWS and v.dim() else v for k, v in tensors.items()}


def angles_of(tensors: dict) -> Tensor:
    """The angles that a state is drawn about."""
    return tensors["x"] if "x" in tensors else tensors["pred"]


def written(case: Case, tensors: dict, noise: dict) -> tuple[int, int]:
    """The bytes of the output and of the gradients. The output is one number, or as large as the noise or the logits."""
    made = noise["noise"] if "noise" in noise else tensors["logits"] if "logits" in tensors else angles_of(tensors)
    output = 4 if case.loss else made.nbytes * (2 if case.family == "circular" else 1)
    return output, sum(tensors[name].nbytes for name in case.diff)


def allowed(case: Case, tensors: dict, noise: dict) -> int:
    """The largest allowed peak of extra memory: the output unless the caller passes it, twice the gradients, since they
    are also saved, and 1 MiB per thread. With a large vocabulary: the weights' gradients and a twentieth of `[..., K]`."""
    output, gradients = written(case, tensors, noise)
    if case.weights:
        return round(4 * (case.weights + ALLOWED_OF_NUMBERS * case.elements))
    own = 0 if case.options.get("reuse") else output
    if case.op.endswith("flow_and_loss"):
        own += noise["noise"].nbytes + gradients  # the input and the output of the network
    threads = torch.get_num_threads() if next(iter(tensors.values())).is_cpu else 1
    return own + 2 * gradients + ALLOWED_PER_THREAD * threads


def quick(case: Case) -> Case:
    """The same case with an eighth of the rows. It shows that everything runs, but its times mean nothing."""
    return replace(case, shape=(max(1, case.shape[0] // QUICK), *case.shape[1:]))


def on_gpu(case: Case) -> Case:
    """The same case with more rows. With draws it stays the same, since the published formulation needs much memory."""
    wide = case.shape in ENLARGED and "n_samples" not in case.options
    return replace(case, shape=(case.shape[0] * ON_GPU, *case.shape[1:])) if wide else case


def few(case: Case) -> Case:
    """The same case with few variables, but with all of its bins or classes."""
    return replace(case, shape=(2, *(min(size, 64) for size in case.shape[1:])))


def inputs(case: Case, seed: int = 0, device: str = "cpu") -> tuple[dict, dict]:
    """The tensors of the op, and explicit noise if the op draws any."""
    g = torch.Generator().manual_seed(seed)
    name = case.op.split(".")[1]
    steps = torch.randint(N_STEPS, case.shape[:1], generator=g) / N_STEPS
    t = steps if name == "discrete_time_loss" else torch.rand(case.shape[:1], generator=g)
    make = {"continuous": _continuous, "discretised": _discretised, "discrete": _discrete, "binary": _binary}
    make["circular"] = _circular
    tensors, noise = make[case.family](case, name, t, g)
    cast = lambda v: v.to(device, case.dtype if v.is_floating_point() else v.dtype)  # noqa: E731
    return {k: v.to(device) if k in ("t", "alpha") else cast(v) for k, v in tensors.items()}, {
        k: cast(v) for k, v in noise.items()
    }


def _uniform(shape, g) -> Tensor:
    return torch.rand(shape, generator=g) * 2 - 1


def _noise_of_loss(case: Case, name: str, wide: tuple[int, ...], g) -> dict:
    """The draws of an n-step loss, the noise of the flow before a loss, or nothing."""
    draws = case.options.get("n_samples")
    shape = (draws, *wide) if draws else wide
    return {"noise": torch.randn(shape, generator=g)} if draws or name == "flow_and_loss" else {}


def _continuous(case: Case, name: str, t: Tensor, g) -> tuple[dict, dict]:
    x, noise = _uniform(case.shape, g), torch.randn(case.shape, generator=g)
    if name == "flow_sample":
        return {"x": x, "t": t}, {"noise": noise}
    mean = _uniform(case.shape, g)
    if name == "update_sample":
        return {"x": x, "mean": mean, "precision": 1 + 9 * t, "alpha": 0.5 + t}, {"noise": noise}
    return {"x": x, "prediction": mean, "t": t}, {}


def _discretised(case: Case, name: str, t: Tensor, g) -> tuple[dict, dict]:
    """Inputs with std log-uniform in [1e-3, 1]. Half of x is drawn from the prediction, the other half is uniform."""
    mean = _uniform(case.shape, g)
    log_std = torch.rand(case.shape, generator=g) * math.log(STD_MIN)
    drawn = (mean + log_std.exp() * torch.randn(case.shape, generator=g)).clamp(-1, 1)
    x = torch.where(torch.rand(case.shape, generator=g) < 0.5, drawn, _uniform(case.shape, g))
    index = ((x * 0.5 + 0.5) * case.k).floor().clamp(0, case.k - 1)
    tensors = {"x": (2 * index + 1) / case.k - 1, "pred_mean": mean, "pred_log_std": log_std, "t": t}
    if case.options.get("stacked"):
        tensors["pred_mean"] = torch.stack([mean, tensors.pop("pred_log_std")], -1)
    return tensors, _noise_of_loss(case, name, case.shape, g)


def _discrete(case: Case, name: str, t: Tensor, g) -> tuple[dict, dict]:
    """Inputs with logits of standard deviation 3. Half of x is drawn from their softmax, and the other half is uniform.
    For a flow, and for a large vocabulary, all of x is uniform."""
    wide = (*case.shape, case.k)
    noise = torch.randn(wide, generator=g)
    if name == "flow_sample":
        return {"x": torch.randint(case.k, case.shape, generator=g), "t": t}, {"noise": noise}
    if name == "vocabulary_loss":
        weight, head = torch.randn(2, case.k, case.options["width"], generator=g)
        x, hidden = torch.randint(case.k, case.shape, generator=g), torch.randn(*case.shape, head.shape[1], generator=g)
        head *= 3 / head.shape[1] ** 0.5
        bias = torch.randn(case.k, generator=g)
        return {"x": x, "t": t, "weight": weight, "head": head, "bias": bias, "hidden": hidden}, {"noise": noise}
    logits = 3 * torch.randn(wide, generator=g)
    if name == "theta":
        return {"logits": logits}, {}
    p = logits.softmax(-1).flatten(0, -2)
    drawn = torch.multinomial(p, 1, generator=g)
    if name == "update_sample":
        # The uniform is the middle of the class's interval. In a very short interval, float32 sums would miss it.
        drawn = torch.where(p.gather(-1, drawn) < CLEAR, p.argmax(-1, keepdim=True), drawn)
        middle = p.double().cumsum(-1).gather(-1, drawn) - p.gather(-1, drawn) / 2
        alpha = torch.tensor(beta_1(case.k) * N_STEPS / N_STEPS**2)
        tensors = {"output_logits": logits, "state": torch.randn(wide, generator=g), "alpha": alpha}
        return tensors, {"noise": noise, "draw_noise": middle.view(case.shape)}
    other = torch.randint(case.k, case.shape, generator=g)
    x = torch.where(torch.rand(case.shape, generator=g) < 0.5, drawn.view(case.shape), other)
    tensors = {"x": x, "logits": logits} | ({} if name == "reconstruction_loss" else {"t": t})
    return tensors, _noise_of_loss(case, name, wide, g)


def _binary(case: Case, name: str, t: Tensor, g) -> tuple[dict, dict]:
    """Inputs with logits of standard deviation 3. In losses, half of x is drawn from the logits, and half is uniform."""
    noise, u = torch.randn(case.shape, generator=g), torch.rand(case.shape, generator=g)
    z = 3 * torch.randn(case.shape, generator=g)
    x = (u < z.sigmoid()).long()
    if name == "flow_sample":
        return {"x": x, "t": t}, {"noise": noise}
    if name == "update_sample":
        u = torch.where((u - (-z).sigmoid()).abs() < CLEAR, 0.5 * u, u)  # class 0, where rounding would decide
        alpha = torch.tensor(beta_1(2) / N_STEPS)
        tensors = {"output_logits": z, "state": torch.randn(case.shape, generator=g), "alpha": alpha}
        return tensors, {"noise": noise, "draw_noise": u}
    x = torch.where(torch.rand(case.shape, generator=g) < 0.5, x, torch.randint(2, case.shape, generator=g))
    tensors = {"x": x, "logits": z} | ({} if name == "reconstruction_loss" else {"t": t})
    return tensors, _noise_of_loss(case, name, case.shape, g)


def _circular(case: Case, name: str, t: Tensor, g) -> tuple[dict, dict]:
    """Angles. A state that an op draws has received at least one message. All draws of an op follow from a seed."""
    x, pred = math.pi * _uniform(case.shape, g), math.pi * _uniform(case.shape, g)
    step = 2 + (t * (MESSAGES - 1)).long()
    if name == "discrete_time_loss":
        return {"x": x, "pred": pred, "step": step}, {}
    seed = {"seed": torch.tensor(1)}
    return (
        {"x": x, "step": step} if name == "flow_sample" else {"pred": pred, "step": torch.full_like(step, MESSAGES)}
    ), seed
