"""The viewer: a local page over an audit store, for people who read, understand and decide. Needs the extra `view`."""

from steerkit.errors import MissingExtraError

try:
    import starlette as _http  # noqa: F401
    import uvicorn as _process  # noqa: F401
except ImportError:
    raise MissingExtraError.of("the viewer", "view", "or look with `steerkit audit list` and `show`") from None

from steerkit.viewer.app import make_viewer
from steerkit.viewer.decide_page import Deciding, Person
from steerkit.viewer.run import export, view
from steerkit.viewer.trust import Kept

__all__ = ["Deciding", "Kept", "Person", "export", "make_viewer", "view"]
