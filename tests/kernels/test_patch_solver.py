"""Samplers of BFN-Solver's form on the ops. The classes here have the names of theirs, and their formulas (arXiv
2404.15766, in reverse time τ) written anew; with BFN_SOLVER=<a checkout of github.com/ML-GSAI/BFN-Solver> their own
code is compared too."""

import importlib.util
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.distributions import Categorical
from torch.nn import functional as F

from bfn_kernels import continuous, discrete, noise, patch

CHECKOUT = os.environ.get("BFN_SOLVER")
STEPS, K = 5, 7


class Solver:
    def __init__(self, unet, num_steps, eta):
        self.unet, self.num_steps = unet, num_steps
        self.times = torch.arange(num_steps, -1, -1).double() / num_steps * (1 - eta)
        self.delta_t = (1 - eta) / num_steps

    def dropped(self, step, last_drop):
        return last_drop and step == self.num_steps - 1


class ImageBFNSolver(Solver):
    def __init__(self, unet, num_steps=100, min_variance=1e-6, eta=1e-5):
        super().__init__(unet, num_steps, eta)
        self.sigma_1 = min_variance**0.5
        rest = min_variance ** (1 - self.times)
        self.a, self.sigma = 1 - rest, ((1 - rest) * rest).sqrt()
        self.place = (self.a / self.sigma).log()

    def predicted(self, x, step):
        noise_pred = self.unet(x, torch.ones_like(x) * (1 - self.times[step])).reshape(x.shape)
        return ((x - self.sigma[step] * noise_pred) / self.a[step]).clip(-1, 1)

    def flow(self, x, x_hat, step):
        s, h = step, self.place[step + 1] - self.place[step]
        return self.sigma[s + 1] / self.sigma[s] * x + self.a[s + 1] * (1 - (-h).exp()) * x_hat

    def ahead(self, x_hat, last, step):
        r = (self.place[step] - self.place[step - 1]) / (self.place[step + 1] - self.place[step])
        return x_hat + (x_hat - last) / (2 * r)

    def sde_euler_update(self, x_s, step, last_drop=False):
        x_hat, xi = self.predicted(x_s, step), torch.randn_like(x_s)
        h = -2 * torch.tensor(self.sigma_1).log() * self.delta_t
        x_t = x_s + h * (x_hat - x_s) + (h * (1 - self.a[step])).sqrt() * xi
        return (x_hat if self.dropped(step, last_drop) else x_t), x_hat

    def ode_bfnsolver1_update(self, x_s, step, last_drop=False):
        x_hat = self.predicted(x_s, step)
        return (x_hat if self.dropped(step, last_drop) else self.flow(x_s, x_hat, step)), x_hat

    def ode_bfnsolver2_multi_step_update(self, x_s0, step, x0_pred_last=None, last_drop=False):
        x_hat = self.predicted(x_s0, step)
        if step and self.dropped(step, last_drop):
            return x_hat, x_hat
        return self.flow(x_s0, self.ahead(x_hat, x0_pred_last, step) if step else x_hat, step), x_hat

    def sde_bfnsolver2_multi_step_update(self, x_s0, step, x0_pred_last=None, last_drop=False):
        x_hat, xi = self.predicted(x_s0, step), torch.randn_like(x_s0)
        if step and self.dropped(step, last_drop):
            return x_hat, x_hat
        ahead = self.ahead(x_hat, x0_pred_last, step) if step else x_hat
        decay = (self.place[step] - self.place[step + 1]).exp()
        x_t = self.sigma[step + 1] / self.sigma[step] * decay * x_s0 + self.a[step + 1] * (1 - decay**2) * ahead
        return x_t + self.sigma[step + 1] * (1 - decay**2).sqrt() * xi, x_hat


class TextBFNSolver(Solver):
    def __init__(self, unet, class_num=27, num_steps=100, max_sqrt_beta=0.75, eta=1e-5):
        super().__init__(unet, num_steps, eta)
        self.max_sqrt_beta, self.K = max_sqrt_beta, class_num

    def output(self, x, t):
        return self.unet(x.softmax(-1), torch.ones(x.shape[:-1]) * t)

    def predicted(self, x, step, cate_samp=False):
        logits = self.output(x, 1 - self.times[step])
        p = F.one_hot(Categorical(logits=logits).sample(), self.K).to(x) if cate_samp else logits.softmax(-1)
        return logits, p

    def flow(self, x, p, tau_s, tau_t):
        c = self.K * self.max_sqrt_beta**2 * (1 - tau_t)
        return (1 - tau_t) / (1 - tau_s) * x + c * (tau_t - tau_s) * (1 / self.K - p)

    def messages(self, x, p, step):
        rise = self.max_sqrt_beta**2 * ((1 - self.times[step + 1]) ** 2 - (1 - self.times[step]) ** 2)
        return x + rise * (self.K * p - 1) + (self.K * rise).sqrt() * torch.randn_like(x)

    def sde_euler_update(self, x_s, step, last_drop=False, cate_samp=False, addi_step=False):
        return self.predicted(x_s, step, cate_samp)  # the logits, in the place of the next state

    def ode_euler_update(self, x_s, step, last_drop=False, cate_samp=False, addi_step=False):
        logits, p = self.predicted(x_s, step, cate_samp)
        if self.dropped(step, last_drop):
            return logits, p
        from_start = 1 - self.times[step]
        x_t = x_s + (x_s / from_start + self.K * self.max_sqrt_beta**2 * from_start * (p - 1 / self.K)) * self.delta_t
        return self.predicted(x_t, step + 1) if self.dropped(step, addi_step) else (x_t, p)

    def ode_bfnsolver1_update(self, x_s, step, last_drop=False):
        logits, p = self.predicted(x_s, step)
        x_t = self.flow(x_s, p, *self.times[step : step + 2])
        return (logits if self.dropped(step, last_drop) else x_t), p

    def ode_bfnsolver2_multi_step_update(self, x_s, step, data_pred_last=None, last_drop=False):
        logits, p = self.predicted(x_s, step)
        if step and self.dropped(step, last_drop):
            return logits, p
        x_t = self.flow(x_s, p, *self.times[step : step + 2])
        if step:
            r, s, t = self.times[step - 1 : step + 2]
            c = self.K * self.max_sqrt_beta**2 * (1 - t)
            x_t = x_t - c * (t - s) ** 2 / 2 * (p - data_pred_last) / (s - r)
        return x_t, p

    def ode_bfnsolver2_single_step_upate(self, x_s, step, last_drop=False):
        s, t = self.times[step : step + 2]
        middle = (s + t) / 2
        logits = self.output(self.flow(x_s, self.predicted(x_s, step)[1], s, middle), 1 - middle)
        p = logits.softmax(-1)
        return (logits if self.dropped(step, last_drop) else self.flow(x_s, p, s, t)), p

    def sde_bfnsolver1_update(self, x_s, step, last_drop=False, cate_samp=False):
        logits, p = self.predicted(x_s, step, cate_samp)
        return (logits if self.dropped(step, last_drop) else self.messages(x_s, p, step)), p

    def sde_bfnsolver2_multi_step_update(self, x_s, step, data_pred_last=None, last_drop=False):
        logits, p = self.predicted(x_s, step)
        if step and self.dropped(step, last_drop):
            return logits, p
        x_t = self.messages(x_s, p, step)
        if step:
            r, s, t = self.times[step - 1 : step + 2]
            slope = self.K * self.max_sqrt_beta**2 * (t - s) ** 2 * (s + 2 * t - 3) / 3
            x_t = x_t + slope * (data_pred_last - p) / (r - s)
        return x_t, p


FORMS = [
    "written anew",
    pytest.param("checkout", marks=pytest.mark.skipif(CHECKOUT is None, reason="BFN_SOLVER names no checkout")),
]


@pytest.fixture(params=FORMS)
def modules(request, monkeypatch):
    """What has `ImageBFNSolver`, and what has `TextBFNSolver`."""
    if request.param == "written anew":
        return [SimpleNamespace(**{cls.__name__: cls}) for cls in (ImageBFNSolver, TextBFNSolver)]
    monkeypatch.syspath_prepend(CHECKOUT)
    for other in ("bfnsolver_i", "bfnsolver_t", "utils"):
        monkeypatch.delitem(sys.modules, other, raising=False)
    if importlib.util.find_spec("torchvision") is None:  # which they draw grids of pictures with
        grids = ModuleType("torchvision.utils")
        grids.make_grid = None
        monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.utils", grids)
    return [importlib.import_module(name) for name in ("bfnsolver_i", "bfnsolver_t")]


class Noise:
    """What an op draws in a step, in the place of what torch would: the seed of each step follows its number."""

    def __init__(self, monkeypatch):
        self.step, self.given = 0, 0
        monkeypatch.setattr(torch, "randn_like", self.normals)
        monkeypatch.setattr(Categorical, "sample", lambda distribution: self.classes(distribution.probs))

    def seed(self):
        torch.manual_seed(self.step)
        return noise.draw_seed(torch.device("cpu"))

    def normals(self, like, **_):
        self.given += 1
        return (noise.class_normal if like.shape[-1] == K else noise.normal)(like.shape, self.seed())

    def classes(self, p):
        self.given += 1
        return noise.draw_class(p, noise.class_uniform(p.shape[:-1], self.seed()))


def images(mean, t):
    """A network whose predictions of the data are within the limits for some variables, and beyond for others."""
    return (2 * mean.sin() - t).unsqueeze(-1)


def text(theta, t):
    return 6 * theta.roll(1, -1) + t.unsqueeze(-1) * torch.linspace(-1, 1, K)


IMAGES = [name for cls, name in patch.bfn_solver.REPLACED if cls == "ImageBFNSolver"]
TEXTS = [name for cls, name in patch.bfn_solver.REPLACED if cls == "TextBFNSolver"]
SAMPLED = ("ode_euler_update", "sde_bfnsolver1_update")
RUNS = [
    *(("ImageBFNSolver", name, {"last_drop": drop}) for name in IMAGES for drop in (False, True)),
    *(("TextBFNSolver", name, {"last_drop": drop}) for name in TEXTS for drop in (False, True)),
    *(("TextBFNSolver", name, {"cate_samp": True}) for name in SAMPLED),
    ("TextBFNSolver", "ode_euler_update", {"addi_step": True}),
    ("TextBFNSolver", "ode_euler_update", {"addi_step": True, "cate_samp": True}),
]


def run(module, cls, name, source, options, steps=STEPS):
    """The states and the predictions of a sampling run, as they make one."""
    of_images = cls == "ImageBFNSolver"
    solver = getattr(module, cls)(
        images if of_images else text, num_steps=steps, eta=0.01, **({} if of_images else {"class_num": K})
    )
    shape = (3, 4, 4, 3) if of_images else (5, 6, K)
    state, found, before = 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(7)), [], {}
    for source.step in range(steps):
        torch.manual_seed(source.step)
        state, predicted = getattr(solver, name)(state, source.step, **before, **options)
        if "multi_step" in name:
            before = {"x0_pred_last" if of_images else "data_pred_last": predicted}
        found += [state, predicted.to(state)]
    return found


@pytest.mark.parametrize(("cls", "name", "options"), RUNS)
def test_a_patched_run_is_theirs(modules, cls, name, options, monkeypatch):
    source, module = Noise(monkeypatch), modules[cls == "TextBFNSolver"]
    want = run(module, cls, name, source, options)
    calls = []
    for family in (continuous, discrete):
        step = family.solver_step
        monkeypatch.setattr(family, "solver_step", lambda *a, step=step, **k: calls.append(k) or step(*a, **k))
    source.given = 0
    with patch.solver(module), torch.inference_mode():
        got = run(module, cls, name, source, options)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-5)
    theirs = options.get("last_drop") or options.get("addi_step", False)
    assert len(calls) == (STEPS - theirs) * (2 if "single_step" in name else 1)
    assert source.given <= theirs  # noise that they drew


def test_one_step_in_all(modules, monkeypatch):
    """With `last_drop` their rules of second order take it nevertheless."""
    source = Noise(monkeypatch)
    for module, (cls, name) in (
        (modules[cls == "TextBFNSolver"], (cls, name)) for cls, name in patch.bfn_solver.REPLACED
    ):
        want = run(module, cls, name, source, {"last_drop": True}, steps=1)
        with patch.solver(module):
            torch.testing.assert_close(run(module, cls, name, source, {"last_drop": True}, steps=1), want)


def test_arguments_by_place(modules):
    state = torch.zeros(2, 3, K)
    solver = modules[1].TextBFNSolver(text, K, 4, 0.75, 0.01)
    with patch.solver(modules[1]):
        first, p = solver.ode_bfnsolver2_multi_step_update(state, 0)
        by_place = solver.ode_bfnsolver2_multi_step_update(first, 1, p, False)
        by_name = solver.ode_bfnsolver2_multi_step_update(x_s=first, step=1, last_drop=False, data_pred_last=p)
        torch.testing.assert_close(by_place, by_name, rtol=0, atol=0)
        with pytest.raises(ValueError, match="previous must be given"):
            solver.ode_bfnsolver2_multi_step_update(first, 1)


def test_a_patch_upon_another(modules):
    state = torch.zeros(2, 3, K)
    solver = modules[1].TextBFNSolver(text, K, 4, 0.75, 0.01)
    with patch.solver(modules[1]):
        want = solver.ode_bfnsolver1_update(state, 0)
        with patch.solver(modules[1]):
            torch.testing.assert_close(solver.ode_bfnsolver1_update(state, 0), want, rtol=0, atol=0)
        torch.testing.assert_close(solver.ode_bfnsolver1_update(state, 0), want, rtol=0, atol=0)


def test_another_module_is_refused_and_left_as_it_was():
    with pytest.raises(AttributeError, match="ImageBFNSolver"):
        patch.solver(SimpleNamespace())
    method = ImageBFNSolver.sde_euler_update
    older = type("ImageBFNSolver", (Solver,), {"sde_euler_update": method})
    with pytest.raises(AttributeError, match="ode_bfnsolver1_update"):
        patch.solver(SimpleNamespace(ImageBFNSolver=older))
    assert older.sde_euler_update is method


def test_a_start_before_the_published_limit_of_time(modules):
    """They look at the network's prediction at any time, so that the ops' t_min must not hide it."""
    made = modules[0].ImageBFNSolver(images, num_steps=STEPS, min_variance=1e-3, eta=1e-8)
    mean = torch.linspace(-1e-4, 1e-4, 6).view(2, 3)
    want = made.ode_bfnsolver1_update(mean, 0)
    with patch.solver(modules[0]):
        got = made.ode_bfnsolver1_update(mean, 0)
    assert want[1].abs().min() > 0
    for ours, official in zip(got, want, strict=True):
        torch.testing.assert_close(ours.double(), official.double(), rtol=1e-4, atol=1e-5)
