"""One small material for all tests of the report."""

import pytest

from drawn_pictures import drawn_material
from nearfar.report.material import Material


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Material:
    return drawn_material(tmp_path_factory.mktemp("pictures"), [f"class {label}" for label in range(12)])
