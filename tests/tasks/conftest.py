import pytest

from tasks import contract


@pytest.fixture(scope="session")
def probe():
    return contract.probe


@pytest.fixture(scope="session")
def baked_in():
    return contract.baked_in
