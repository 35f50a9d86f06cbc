"""What the tests of measuring share: a child that converts, since starting one takes seconds."""

from collections.abc import Iterator

import pytest

from packlight.targets import Child, get


@pytest.fixture(scope="session")
def exporter() -> Iterator[Child]:
    with Child(get("onnxruntime")) as child:
        yield child
