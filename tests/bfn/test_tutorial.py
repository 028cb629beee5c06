"""The tutorial: its code runs, computes what the page says, and has as many lines as the title says."""

import re

import pytest
import torch

from bfn.data.splits import image_baseline
from docs.pictures import tutorial

TEXT = tutorial.PAGE.read_text()
PROSE = " ".join(TEXT.split())


def test_the_code_has_as_many_lines_as_the_title_says():
    (lines,) = re.findall(r"^# .* in (\d+) lines$", TEXT, re.MULTILINE)
    assert sum(line.strip() != "" for block in tutorial.code_blocks() for line in block.splitlines()) == int(lines)


def test_each_step_has_a_block_and_its_picture():
    steps = re.split(r"^## \d\. .*$", TEXT, flags=re.MULTILINE)[1:]
    for i, step in enumerate(steps, 1):
        pictures = re.findall(r"^!\[.*\]\((.*)\)$", step, re.MULTILINE)
        assert step.count("```python") == 1 and pictures == [f"pictures/tutorial_{i}.png"]


def test_pictures_cost_what_the_page_says():
    """The last digits depend on the processor, since rounding errors grow in training. Another seed changes the bits by
    0.01."""
    evaluated = tutorial.run()[5]
    said = [float(bits) for bits in re.findall(r"about (0\.\d+) bits per pixel", PROSE)]
    assert said == [said[0]] * 2
    assert evaluated["bits"] == pytest.approx(said[0], abs=0.03)
    (alone,) = re.findall(r"a pixel would cost (0\.\d+) bits", PROSE)
    train, test = (evaluated[name].long() for name in ("train", "test"))
    assert image_baseline(train, train[:0], test, 2) == pytest.approx(float(alone), abs=0.005)


def test_signs_are_right_as_often_as_the_page_says():
    """In the first message, and in the state after the last one."""
    first = tutorial.run()[1]
    many = tutorial.repeated(2, first, x=first["x"].expand(4000, -1))
    weak = tutorial.binary.sender_sample(many["x"], 0.01)
    (message,) = re.findall(r"in only (\d+) % of all cases", PROSE)
    (state,) = re.findall(r"right for (\d+) % of the pixels on average", PROSE)
    for numbers, said in ((weak, message), (many["states"][-1], state)):
        assert ((numbers > 0) == many["x"]).double().mean().item() == pytest.approx(int(said) / 100, abs=0.006)


def test_the_flow_has_the_moments_that_the_page_says():
    names = tutorial.run()[2]
    ink = names["x"].expand(4000, -1)
    for t in (0.5, 1.0):
        beta = names["beta_1"] * t**2
        drawn = tutorial.binary.flow_sample(ink, t, beta_1=names["beta_1"], output="logits", seed=1)
        about = torch.where(ink, drawn, -drawn)
        assert about.mean().item() == pytest.approx(2 * beta, rel=0.01)
        assert about.std().item() == pytest.approx(2 * beta**0.5, rel=0.01)


def test_the_loss_is_the_formula_of_the_page():
    names = tutorial.run()[5]
    x, t, beta_1 = (names[name] for name in ("x", "t", "beta_1"))
    logits = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    q = torch.where(x, -logits, logits).sigmoid()
    got = tutorial.binary.continuous_time_loss(x, logits, t, beta_1=beta_1, reduction="none")
    torch.testing.assert_close(got, 4 * beta_1 * t[:, None] * q**2)


def test_new_pictures_are_like_held_out_ones():
    """Their shares of ink differ little in each row and column."""
    names = tutorial.run()[6]
    for dim in (1, 2):
        new, held_out = (names[name].view(-1, 8, 8).double().mean((0, dim)) for name in ("samples", "test"))
        torch.testing.assert_close(new, held_out, rtol=0, atol=0.15)
