import pytest

from vla_jax import config


@pytest.fixture(autouse=True)
def toy_configs_may_be_read(monkeypatch):
    """Configurations name classes of this project's packages only; the toy policy lives in the tests."""
    monkeypatch.setattr(config, "OWN_PACKAGES", (*config.OWN_PACKAGES, "tests."))
