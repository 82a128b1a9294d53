"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from marl.sparse.backends import choose


@pytest.fixture(autouse=True, scope="session")
def _choices_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests measure of backends, on a machine that others keep busy, is not the user's choice."""
    path = tmp_path_factory.mktemp("choices") / "choices.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "_file", lambda: path)
        choose._known.cache_clear()
        yield
    choose._known.cache_clear()
