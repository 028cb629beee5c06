"""Ops of large vocabularies: every tensor in any layout, and a NaN or an infinity in one place of one tensor, such as
one class's bias, give what the reference gives of the stored logits."""

import pytest
from hypothesis import given

from tests.fuzz.comparison import check
from tests.fuzz.drawn_calls import BACKENDS, examples, heads, remember
from tests.fuzz.test_fuzz_values import check_plan
from tests.kernels.support import INTERPRETED, serves
from tests.kernels.test_vocabulary import small_tiles  # noqa: F401

pytestmark = pytest.mark.usefixtures("small_tiles")
each = pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
COUNT = 40


def cases_to_try(backend: str):
    """Under the interpreter, which is slow, the losses that have kernels for 16 bits there, of few classes."""
    losses = ("vocabulary.continuous_time_loss", "vocabulary.reconstruction_loss")
    few = lambda case: case.op in losses and not case.huge  # noqa: E731
    return lambda case: serves(case, backend) and (not INTERPRETED or few(case))


@each
def test_layouts(backend):
    @examples(COUNT)
    @given(plan=heads(cases_to_try(backend)))
    def agrees(plan):
        check_plan(plan, backend)

    agrees()


@each
def test_one_place_that_is_not_finite(backend):
    @examples(COUNT)
    @given(plan=heads(cases_to_try(backend), ("not finite",)))
    def shows(plan):
        remember(plan)
        check(plan.make(), backend)

    shows()
