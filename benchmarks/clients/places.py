"""Where each client's computation is in its code, and the calls of ops that replace it: docs/guides/clients.md."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """A published project. name: what the option --checkout calls it; "" if its functions cannot be called here."""

    title: str
    name: str
    repository: str
    revision: str


@dataclass(frozen=True)
class Place:
    """A function of a project, its file, and its line at the project's revision, or 0. client: the start of the name
    of the `Client` with the function's formulas. calls: the ops that replace the function, for each of our calls in
    this `Client`."""

    code: Code
    file: str
    line: int
    function: str
    client: str
    calls: dict[str, str]

    @property
    def link(self) -> str:
        """A link to the line, in Markdown."""
        page = f"https://github.com/{self.code.repository}/blob/{self.code.revision}/{self.file}"
        return f"[`{self.file}:{self.line}`]({page}#L{self.line})" if self.line else f"[`{self.file}`]({page})"


CHEMBFN = Code("ChemBFN", "chembfn", "Augus1999/bayesian-flow-network-for-chemistry", "97460c1")
CHEMBFN_OF_2025 = Code("ChemBFN", "chembfn", "Augus1999/bayesian-flow-network-for-chemistry", "dc4ca0a")
TORCH_BFN = Code("torch_bfn", "torch_bfn", "MaximeRobeyns/bayesian_flow_networks", "cd05936")
MOLCRAFT = Code("MolCRAFT", "molcraft", "AlgoMole/MolCRAFT", "af2f34d")
MOLPILOT = Code("MolPilot", "molcraft", "AlgoMole/MolCRAFT", "af2f34d")
GEOBFN = Code("GeoBFN", "geobfn", "AlgoMole/GeoBFN", "89e9a24")
CRYSBFN = Code("CrysBFN", "crysbfn", "GenSI-THUAIR/CrysBFN", "e94bc87")
PROFILEBFN = Code("ProfileBFN", "profilebfn", "AlgoMole/ProfileBFN-pro", "e9578cc")
ABBFN2 = Code("AbBFN2", "", "instadeepai/AbBFN2", "7964225")
CONDBFNPOL = Code("condBFNPol", "condbfnpol", "ZhaoyangLi-1/condBFNPol", "56b9fe4")
BSI = Code("bsi", "bsi", "martenlienen/bsi", "5b8a6ac")

FLOW_AND_LOSS = "`flow_sample`, `continuous_time_loss`"
SMILES = Place(
    CHEMBFN,
    "bayesianflow_for_chem/model.py",
    334,
    "ChemBFN.cts_loss",
    "flow and loss of 64 × 128 tokens",
    {"ops": f"`discrete`: {FLOW_AND_LOSS}"},
)
GUIDED = Place(
    CHEMBFN,
    "bayesianflow_for_chem/model.py",
    380,
    "ChemBFN.sample",
    "guided step of",
    {"ops": '`discrete`: `solver_step(rule="sde1", choose="mode", unconditional=…)`'},
)
ODE = Place(
    CHEMBFN_OF_2025,
    "bayesianflow_for_chem/model.py",
    0,
    "ChemBFN.ode_sample",
    "renoised step of",
    {"ops": '`discrete`: `solver_step(rule="renoise", choose="mean", variance_scale=…)`'},
)
LETTERS = Place(
    TORCH_BFN,
    "torch_bfn/bfn.py",
    329,
    "DiscreteBFN.loss",
    "flow and loss of 64 × 256 letters",
    {"ops": f"`discrete`: {FLOW_AND_LOSS}"},
)
TYPES = Place(
    MOLCRAFT,
    "MolCRAFT/core/models/bfn_base.py",
    159,
    "BFNBase.dtime4discrete_loss_prob",
    "n-step loss of 400 variables of 13",
    {
        "200 draws": "`discrete`: `discrete_time_loss(n_samples=200)`",
        "continuous time": "`discrete`: `continuous_time_loss` at (i − ½)/n",
    },
)
FLAGS = Place(
    MOLPILOT,
    "MolPilot/core/models/bfn_base.py",
    200,
    "BFNBase.dtime4discrete_loss_prob",
    "n-step loss of 400 variables of 2",
    {"8 nodes": "`discrete`: `discrete_time_loss(quadrature=8)`"},
)
CHARGES = Place(
    GEOBFN,
    "core/model/bfn/bfn_base.py",
    357,
    "bfn4MolEGNN.loss_one_step",
    "flows and losses of 1152 atoms",
    {"ops": f"`continuous` and `discretised`: {FLOW_AND_LOSS}"},
)
CRYSTALS = Place(
    CRYSBFN,
    "crysbfn/pl_modules/crysbfn_csp.py",
    135,
    "CrysBFN_CSP.circular_var_bayesian_flow_sim",
    "flow and loss of 256 atoms",
    {"ops": "`circular`: `flow_sample`, `discrete_time_loss(squared=True)`"},
)
CRYSTALS_BASE = "crysbfn/pl_modules/bfn_base.py"  # has the loss, dtime4circular_loss in line 330
PROTEINS = Place(
    PROFILEBFN,
    "bfn_model/bflow.py",
    6,
    "sampling_tensor_discreteBayesianFlow_mbcltbf",
    "step of 8 × 256 amino acids",
    {"ops": '`discrete`: `solver_step(rule="renoise", choose="mean")`'},
)
ANTIBODIES = Place(
    ABBFN2,
    "src/abbfn2/bfn/discrete.py",
    72,
    "DiscreteBFN.sample_receiver_distribution",
    "step of 8 × 256 residues",
    {"ops": '`discrete`: `update_sample(choose="mean", known=…)`'},
)
POLICY = Place(
    CONDBFNPOL,
    "policies/bfn_hybrid_action_policy.py",
    613,
    "BFNHybridActionPolicy.compute_loss",
    "flows and losses of 256 plans",
    {"ops": "`continuous`: " + FLOW_AND_LOSS + "; `binary`: `flow_sample`, `reconstruction_loss`"},
)
IMAGES = Place(
    BSI,
    "bsi/bfn.py",
    187,
    "BFN.continuous_time_loss",
    "flow and loss of 16 images",
    {"ops": f"`continuous`: {FLOW_AND_LOSS}"},
)
INFERENCE = Place(
    BSI,
    "bsi/bsi.py",
    312,
    "BSI.sample",
    "step of 16 images",
    {"ops": "`continuous`: `update_sample` with ρ = λ"},
)
CRYSTALS_DATA = "crysbfn/common/data_utils.py"
CENTRE = "MolCRAFT/core/callbacks/validation_callback_for_sample.py"  # has center_pos
JOINT = "`nn.Joint`: {}".format
WHOLE_CRYSTALS = Place(
    CRYSBFN,
    "crysbfn/pl_modules/crysbfn.py",
    233,
    "CrysBFN.loss_one_step",
    "joint step of 256 crystals",
    {"nn.Joint": JOINT("`loss_by_part`")},
)
CRYSTALS_RENOISED = Place(
    CRYSBFN,
    "crysbfn/pl_modules/crysbfn.py",
    358,
    "CrysBFN.sample",
    "joint run of 16 steps, end_back, 256 crystals",
    {"nn.Joint": JOINT('`samplers.sample(sampler="renoise")`')},
)
CRYSTALS_VANILLA = Place(
    CRYSBFN,
    "crysbfn/pl_modules/crysbfn_csp.py",
    391,
    "CrysBFN_CSP.sample",
    "joint run of 16 steps, vanilla, 256 crystals",
    {"nn.Joint": JOINT("`samplers.sample`")},
)
LIGANDS = Place(
    MOLCRAFT,
    "MolCRAFT/core/models/bfn4sbdd.py",
    308,
    "BFN4SBDDScoreModel.loss_one_step",
    "joint step of 8 ligands",
    {"nn.Joint": JOINT("`loss_by_part(n_steps=1000)`"), "nn.Joint, continuous time": JOINT("`loss_by_part`")},
)
LIGANDS_RENOISED = Place(
    MOLCRAFT,
    "MolCRAFT/core/models/bfn4sbdd.py",
    439,
    "BFN4SBDDScoreModel.sample",
    "joint run of 16 steps, end_back_pmf, 100 ligands",
    {"nn.Joint": JOINT('`samplers.sample(sampler="renoise", choose="mean")`')},
)
LIGANDS_VANILLA = Place(
    MOLCRAFT,
    "MolCRAFT/core/models/bfn4sbdd.py",
    439,
    "BFN4SBDDScoreModel.sample",
    "joint run of 16 steps, vanilla, 100 ligands",
    {"nn.Joint": JOINT("`samplers.sample`")},
)
PLACES = (
    *(SMILES, GUIDED, TYPES, FLAGS, CHARGES, CRYSTALS),
    *(PROTEINS, ANTIBODIES, POLICY, IMAGES, INFERENCE),
)
# Functions that were measured on another day: two more, and whole models in a training step and in sampling runs.
LATER = (
    *(ODE, LETTERS),
    *(WHOLE_CRYSTALS, CRYSTALS_RENOISED, CRYSTALS_VANILLA, LIGANDS, LIGANDS_RENOISED, LIGANDS_VANILLA),
)
