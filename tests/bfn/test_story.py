import io

import pytest
import torch
from rich.console import Console

from bfn_kernels import continuous
from docs.pictures import story


def test_the_network_of_the_story_is_right_about_what_it_says():
    generator = torch.Generator().manual_seed(0)
    high = torch.rand(200_000, generator=generator) < story.HIGH
    x = story.VALUE * (2.0 * high - 1)
    mean = continuous.flow_sample(x[None], 0.4, schedule=story.SCHEDULE, seed=1)[0]
    said = story.output_distribution(mean, 0.4)
    for low in (0.1, 0.5, 0.8):
        group = (said > low) & (said < low + 0.1)
        assert high[group].double().mean().item() == pytest.approx(said[group].mean().item(), abs=0.015)


def test_the_messages_cost_the_entropy_of_the_data():
    assert story.cost(50, seed=5).mean().item() == pytest.approx(story.ENTROPY, rel=0.03)


def test_the_story_is_told_and_drawn(tmp_path):
    said = io.StringIO()
    path = story.tell(tmp_path / "story.png", Console(file=said, width=200))
    assert path.stat().st_size > 10_000
    lines = said.getvalue().splitlines()
    assert lines[1].endswith("N(+0.00, 1.00²); the network thinks 70.0%.") and lines[-1].endswith("is 0.611.")
