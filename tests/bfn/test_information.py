import math

import pytest
import torch

from bfn_kernels import discrete
from bfn_kernels.schedules import final_accuracy
from docs.pictures import information


@pytest.mark.parametrize("num_classes", [27, 500])
def test_what_messages_tell_and_what_is_left_open_is_all_there_is_to_know(num_classes):
    beta_1 = final_accuracy(num_classes, certainty=0.7)
    nats = information.information(num_classes, beta_1, 40, draws=100)
    x = torch.zeros(50_000, dtype=torch.int64)
    logits = discrete.flow_sample(x, 1.0, num_classes=num_classes, beta_1=beta_1, seed=2, output="logits")
    left = discrete.reconstruction_loss(x, logits)
    assert left > 0.5
    assert (nats.sum() + left).item() == pytest.approx(math.log(num_classes), rel=0.01)
