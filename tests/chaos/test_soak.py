"""A search of many trials keeps its size: a short version of `make soak`, and what that is judged by."""

import pytest

from benchmarks.soak import MOST_FILES, Course, Soak, faults_of, lasting, real, simulated
from tests.chaos.cluster import cluster_of

WARM_HERE = 10  # trials after which a search of 30 counts as warm
MOST_HERE = 0.3  # MB a trial after that: a worker grows by 0.14 still, and is at rest after some 50 trials only


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_search_of_tiny_trials_keeps_its_size_and_leaves_nothing() -> None:
    with cluster_of(1, 1) as cluster:
        soak = real(30, cluster)
    assert faults_of(soak, WARM_HERE, MOST_HERE) == []
    assert max(course.trials[-1] for course in lasting(soak)) >= 20
    assert {"driver", "switchboard", "worker"} <= {course.name.split()[0] for course in lasting(soak)}
    assert 0 < soak.run_bytes < 2 * 2**20


@pytest.mark.long
def test_a_simulation_keeps_its_size() -> None:
    soak = simulated(500)
    assert soak.courses[0].trials and faults_of(soak) == []


def _soak(memory: float, files: int, left: list[str], trials: int = 300) -> Soak:
    """A search whose driver grows by so many MB, and so many files, a trial."""
    numbers = range(trials)
    course = Course("driver", [*numbers], [100 + memory * n for n in numbers], [9 + files * n for n in numbers])
    return Soak(trials, 60.0, [course], 1000.0, left)


def test_what_a_soak_finds() -> None:
    assert faults_of(_soak(0.09, 0, [])) == []
    assert faults_of(_soak(0.11, 0, [])) == ["driver: grows by 110 kB a trial after the 50th"]
    assert faults_of(_soak(1.5, 0, []))[0] == "driver: grows by 1.50 MB a trial"
    assert faults_of(_soak(0.0, 1, [])) == ["driver: 59 open files have become 308"]
    assert faults_of(_soak(0.0, 0, ["actor Switchboard"])) == ["left: actor Switchboard"]
    assert MOST_FILES < 20


def test_what_the_short_soak_finds() -> None:
    """The limits that the search of 30 trials is held to."""
    assert faults_of(_soak(0.25, 0, [], 30), WARM_HERE, MOST_HERE) == []
    assert faults_of(_soak(0.35, 0, [], 30), WARM_HERE, MOST_HERE) == ["driver: grows by 350 kB a trial after the 10th"]
    assert faults_of(_soak(0.0, 1, [], 30), WARM_HERE, MOST_HERE) == ["driver: 19 open files have become 38"]
    with pytest.raises(AssertionError, match="too few trials"):
        faults_of(_soak(0.0, 0, [], 30))
