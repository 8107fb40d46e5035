"""A search of many trials keeps its size: a short version of `make soak`, and what that is judged by."""

import pytest

from benchmarks.soak import MOST_FILES, Course, Soak, faults_of, real, simulated
from tests.chaos.cluster import cluster_of


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_search_of_tiny_trials_keeps_its_size_and_leaves_nothing() -> None:
    with cluster_of(1, 1) as cluster:
        soak = real(30, cluster)
    assert faults_of(soak) == []
    kinds = {course.name.split()[0] for course in soak.courses}
    assert {"driver", "switchboard", "worker"} <= kinds
    assert max(course.trials[-1] for course in soak.courses) >= 20
    assert 0 < soak.run_bytes < 2 * 2**20


@pytest.mark.long
def test_a_simulation_keeps_its_size() -> None:
    soak = simulated(500)
    assert soak.courses[0].trials and faults_of(soak) == []


def _soak(memory: float, files: int, left: list[str]) -> Soak:
    """A search of 300 trials whose driver grows by so many MB, and so many files, a trial."""
    course = Course(
        "driver", list(range(300)), [100 + memory * n for n in range(300)], [9 + files * n for n in range(300)]
    )
    return Soak(300, 60.0, [course], 1000.0, left)


def test_what_a_soak_finds() -> None:
    assert faults_of(_soak(0.01, 0, [])) == []
    assert faults_of(_soak(0.06, 0, [])) == ["driver: grows by 60 kB a trial after the 50th"]
    assert faults_of(_soak(1.5, 0, []))[0] == "driver: grows by 1.50 MB a trial"
    assert faults_of(_soak(0.0, 1, [])) == ["driver: 59 open files have become 308"]
    assert faults_of(_soak(0.0, 0, ["actor Switchboard"])) == ["left: actor Switchboard"]
    assert MOST_FILES < 20
