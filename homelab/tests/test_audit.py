"""The audit's own arithmetic: a short cut of it, against the long way."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from homelab.tests.faults.audit import steps_by_bucket
from metrics.tests import oracle

MINUTE_MS = 60_000


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.integers(0, 4 * MINUTE_MS)), min_size=2, max_size=12))
def test_of_two_boots_at_once_each_bucket_gets_all_steps_that_lie_in_it(beats: list[tuple[int, int]]):
    readings = [oracle.Reading(at, (at,) * 8, boot=boot, uptime=at) for boot, at in beats]
    truth = oracle.steps_of(readings)
    edges = [minute * MINUTE_MS for minute in range(-1, 6)]
    expected = [oracle.bucket(truth, since, until) for since, until in pairwise(edges)]
    assert [oracle.bucket(steps, *bucket) for steps, *bucket in steps_by_bucket(truth, edges)] == expected
