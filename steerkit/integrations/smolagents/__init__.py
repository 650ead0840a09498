"""smolagents: a runtime as the model of its agents."""

from steerkit.errors import MissingExtraError

try:
    from steerkit.integrations.smolagents.model import SteerkitModel
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "smolagents":
        raise
    raise MissingExtraError.of("steerkit.integrations.smolagents", "smolagents") from None

__all__ = ["SteerkitModel"]
