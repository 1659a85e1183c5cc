"""Fixtures of the browser face; its tests are passed over by name where its packages are missing (extra ``viewer``)."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from MedRationaleViewer.server import Front

NEEDED = ("aiohttp", "trame_client", "trame_rca", "wslink")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
TEST_S = 60.0


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Test files here import aiohttp at their head, so they are not read where it is missing."""
    return True if MISSING and collection_path.name.startswith("test_") else None


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs tests that are coroutines, each in a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), TEST_S))
    return True


@pytest.fixture(scope="session")
def fake_tab() -> Any:
    """The module of fake tabs, found by its own name in forked processes too."""
    folder = str(Path(__file__).parent)
    sys.path.insert(0, folder)
    import fake_tab

    from MedRationaleViewer import tabs

    tabs.warm(["fake_tab"])
    return fake_tab


MakeFront = Callable[..., AbstractAsyncContextManager["Front"]]


@pytest.fixture
def make_front(fake_tab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeFront]:
    """A front with fake tabs on a free port; its folders lie in a folder of the test's own, which must end empty."""
    from MedRationaleViewer.server import Front
    from MedRationaleViewer.tab_options import TabOptions
    from MedRationaleViewer.tabs import Tabs

    place = tmp_path / "fronts"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))

    @asynccontextmanager
    async def make(*, study: str | None = None, spare: bool = False, **wishes: Any) -> AsyncIterator[Front]:
        limit = wishes.setdefault("upload_mb", 2)
        options = TabOptions(secret="", folder="", rooms=None, root=None, study=study, upload_mb=limit)
        of_tabs = {name: wishes.pop(name) for name in ("max_tabs", "grace_s", "first_s") if name in wishes}
        tabs = Tabs(fake_tab.run_fake_tab, options, spare=spare, spare_after_s=0.05, **of_tabs)
        async with Front(tabs, **{"port": 0, **wishes}) as front:
            yield front

    yield make
    assert list(place.iterdir()) == []
