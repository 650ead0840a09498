"""Inspect: `get_model("steerkit/tiny", policy="payments")`, and an approver that judges whatever model is evaluated."""

from steerkit.errors import MissingExtraError

try:
    from steerkit.integrations.inspect.approver import judged
    from steerkit.integrations.inspect.model import SteerkitAPI
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "inspect_ai":
        raise
    raise MissingExtraError.of("steerkit.integrations.inspect", "inspect") from None

__all__ = ["SteerkitAPI", "judged"]
