"""A cluster for tests: a real one (`make test-cluster`), or the recorded answers of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cluster.answers import ask_all, record
from cluster.kube import Cluster
from cluster.network import node_network
from cluster.node import Node, make_node
from cluster.sources import Source, real, recorded
from cluster.tokens import just_expired

OPTION, RECORD = "--kube", "--record"
# These need a real cluster.
_REAL = (
    "test_admission.py",
    "test_daemonset.py",
    "test_kubelet.py",
    "test_manifests.py",
    "test_recorded_answers.py",
    "test_registrar.py",
    "test_signing_keys.py",
    "test_rights.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, type=Path, help="a program with Kubernetes' API server and a kubelet: make test-cluster")
    parser.addoption(RECORD, action="store_true", help="record the answers of the API server")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if collection_path.name in _REAL and config.getoption(OPTION, None) is None else None


@pytest.fixture(scope="session")
def _real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Source]]:
    """The real cluster, in a network of its own, which this process enters for good."""
    with node_network(), real(request.config.getoption(OPTION).absolute(), tmp_path_factory.mktemp("kube")) as found:
        if request.config.getoption(RECORD):
            record(found[1].tokens, ask_all(found[1].api, found[1].tokens))
        yield found


@pytest.fixture
def cluster(_real: tuple[Cluster, Source]) -> Cluster:
    """A real cluster."""
    return _real[0]


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """An API server: a real one, or the recorded answers of one."""
    if request.config.getoption(OPTION, None) is not None:
        cluster, found = request.getfixturevalue("_real")
        found.tokens["expired 20 s ago"] = just_expired(found.tokens["good"], cluster.folder)
        yield found
    else:
        with recorded(tmp_path_factory.mktemp("recorded")) as found:
            yield found


@pytest.fixture(scope="module")
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node in a network of its own, which this process is in while a module's tests run."""
    with ExitStack() as stack:
        if request.config.getoption(OPTION, None) is None:
            stack.enter_context(node_network())
        source = request.getfixturevalue("source")  # After the network: it runs there.
        yield stack.enter_context(make_node(source, tmp_path_factory.mktemp("node")))
