"""What HCGNet promises at settings that hypothesis draws; campaigns/properties.py has all."""

import math

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from campaigns.properties import ARCHS, Case, check

few = settings(
    deadline=None,
    derandomize=True,  # the same examples in every run: a failure is the change's
    database=None,
    suppress_health_check=list(HealthCheck),
)


@st.composite
def cases(draw, arch, most):
    """A setting of a network on images of up to ``most`` pixels a side."""
    stages = len(ARCHS.get(arch, arch)[0])
    indices = st.lists(st.integers(0, stages - 1), min_size=1, max_size=stages, unique=True)
    return Case(
        arch=arch,
        out_indices=tuple(draw(indices)),
        frozen_stages=draw(st.integers(-1, stages)),
        batch=draw(st.integers(1, 2)),
        size=(draw(st.integers(32, most)), draw(st.integers(32, most))),
        norm_eval=draw(st.booleans()),
        with_cp=draw(st.booleans()),
    )


@st.composite
def small_networks(draw):
    """Networks of one to four stages, of which each has its own depth and width."""
    stem = draw(st.sampled_from(["imagenet", "cifar"]))
    stages = draw(st.integers(1, 4))
    depths, growth_rates = (
        tuple(draw(st.lists(numbers, min_size=stages, max_size=stages)))
        for numbers in (st.integers(1, 3), st.sampled_from([4, 8, 12, 16]))
    )
    most = 257 if stem == "imagenet" else 95
    return draw(cases((depths, growth_rates, stem), most))


@settings(few, max_examples=25)
@given(small_networks())
@example(Case(((1,), (4,), "imagenet"), (0,), 0, 2, (257, 33)))
@example(Case(((1, 1, 1, 1), (8, 8, 8, 8), "imagenet"), (3, 0), 2, 1, (33, 257)))
def test_small_networks(case):
    check(case)


@pytest.mark.parametrize("arch", ARCHS)
def test_published_networks(arch):
    @settings(few, max_examples=3)
    @given(cases(arch, most=97 if ARCHS[arch][2] == "imagenet" else 41))
    def run(case):
        check(case)

    run()


def test_the_check_itself_fails_where_a_promise_is_broken(monkeypatch):
    case = Case(((1, 1), (4, 4), "cifar"), (1,), 1, 2, (32, 35))
    check(case)
    with monkeypatch.context() as patch:
        patch.setattr(math, "ceil", lambda x: int(x))
        with pytest.raises(AssertionError, match="1, torch.Size"):
            check(case)
    with monkeypatch.context() as patch:
        patch.setattr("mmhcgnet.models.HCGNet._freeze", lambda self: None)
        with pytest.raises(AssertionError, match="stem.conv.weight"):
            check(case)
