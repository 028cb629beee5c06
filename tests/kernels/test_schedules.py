"""The accuracy that a vocabulary wants."""

import copy
import math
import pickle

import pytest
import torch

from bfn_kernels import discrete
from bfn_kernels.schedules import VonMisesAccuracy, final_accuracy


@pytest.mark.parametrize(("num_classes", "certainty"), [(2, 0.9), (27, 0.9865), (8000, 0.7)])
def test_the_likeliest_class_of_a_flow_is_the_right_one_as_often_as_asked_for(num_classes, certainty):
    x = torch.arange(4000) % num_classes
    beta_1 = final_accuracy(num_classes, certainty=certainty)
    logits = discrete.flow_sample(x, 1.0, num_classes=num_classes, beta_1=beta_1, seed=1, output="logits")
    error = math.sqrt(certainty * (1 - certainty) / len(x))
    assert (logits.argmax(-1) == x).double().mean().item() == pytest.approx(certainty, abs=3 * error)


def test_published_accuracies_are_those_of_their_certainties():
    assert final_accuracy(27) == pytest.approx(0.75, rel=1e-3)  # the paper's text8
    for beta_1 in (3.0, 9.0):  # the paper's MNIST, and its code's
        certainty = torch.special.ndtr(torch.tensor(beta_1).double().sqrt()).item()  # of the difference of two normals
        assert final_accuracy(2, certainty=certainty) == pytest.approx(beta_1, rel=1e-9)
    assert final_accuracy(246, certainty=0.9427606) == pytest.approx(20.4054 / 246, rel=1e-5)  # ChemBFN's


def test_every_certainty_of_every_vocabulary_has_an_accuracy():
    found = [final_accuracy(10**9, certainty=c) for c in (1.1e-9, 0.5, 1 - 2**-53)]
    assert found == sorted(found) and found[0] > 0 and found[-1] < math.inf
    # Half of the samples have their class at the top where √s is the median of the largest of K normals, here that of
    # Gumbel's limit for large K.
    root, nats = math.sqrt(2 * math.log(1e9)), math.log(math.log(1e9))
    largest = root - (nats + math.log(4 * math.pi)) / (2 * root) - math.log(math.log(2)) / root
    assert found[1] * 1e9 == pytest.approx(largest**2, rel=0.02)


def test_classes_that_are_not_equally_frequent_need_less():
    equal = final_accuracy(8000, entropy=math.log(8000))
    assert equal == pytest.approx(final_accuracy(8000), rel=1e-12)
    p = 1 / (torch.arange(8000) + 2.7).double()
    p /= p.sum()
    beta_1 = final_accuracy(8000, entropy=-(p * p.log()).sum().item())
    assert beta_1 < 0.9 * equal
    x = torch.multinomial(p, 4000, replacement=True, generator=torch.Generator().manual_seed(0))
    logits = discrete.flow_sample(x, 1.0, num_classes=8000, beta_1=beta_1, seed=1, output="logits")
    # Bayes' rule with the frequencies; that of rare classes is what e^entropy classes have not.
    assert ((logits + p.log()).argmax(-1) == x).double().mean().item() == pytest.approx(0.9865, abs=0.01)


def test_a_copied_schedule_has_no_copies_on_devices():
    """Its accuracies may be read where there is no such device."""
    schedule = VonMisesAccuracy([1.0, 2.0])
    schedule.on(torch.device("cpu"))
    for copied in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert not copied._copies and torch.equal(copied.table, schedule.table)
    assert schedule._copies


@pytest.mark.parametrize("module", ["schedules", "von_mises"])
def test_pickles_of_angles_load(module):
    """A pickle names the public module. A pickle that names the private module loads, too."""
    written = pickle.dumps(VonMisesAccuracy([1.0, 2.0]), protocol=0)
    assert written.count(b"bfn_kernels.schedules\nVonMisesAccuracy") == 1
    loaded = pickle.loads(written.replace(b"bfn_kernels.schedules\n", f"bfn_kernels.{module}\n".encode()))
    assert type(loaded) is VonMisesAccuracy and loaded.alphas.tolist() == [1.0, 2.0]
