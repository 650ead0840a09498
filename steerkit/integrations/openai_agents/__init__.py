"""openai-agents: a runtime as the model of its agents, in this process."""

from steerkit.errors import MissingExtraError

try:
    from steerkit.integrations.openai_agents.model import APPROVALS, SteerkitModel
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("agents", "openai"):
        raise
    raise MissingExtraError.of("steerkit.integrations.openai_agents", "openai_agents") from None

__all__ = ["APPROVALS", "SteerkitModel"]
