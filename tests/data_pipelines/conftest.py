import pytest

from tests.rlds_episodes import write_bridge, write_fractal


@pytest.fixture(scope="module")
def two_datasets(tmp_path_factory):
    """A Bridge-like and a fractal-like dataset; not to be damaged."""
    root = tmp_path_factory.mktemp("two_datasets")
    write_bridge(root)
    write_fractal(root)
    return root
