"""The short case of chaos that `.ci/run` has as a part of its own (`make test-chaos`)."""

import pytest

from tests.chaos.case import Case, place
from tests.chaos.cluster import cluster_of
from tests.chaos.plans import short


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(480)  # it takes some 3 minutes, the reference included
def test_a_search_that_loses_workers_a_node_and_its_driver_ends_as_one_that_was_left_alone() -> None:
    case = short()
    with cluster_of(*case.cpus) as cluster, place(case) as folder:
        outcome = Case(case, cluster, folder).go()
    assert outcome.wrong == []
    met = [hit.fault for hit in outcome.hits if hit.counts]
    assert {"worker", "node", "driver"} <= set(met)
    assert outcome.resumes >= 1
