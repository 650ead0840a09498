"""pydantic-ai: a runtime as its model, and a hook that runs only what the guard released or a person approved."""

from steerkit.errors import MissingExtraError

try:
    from steerkit.integrations.pydantic_ai.hook import guard
    from steerkit.integrations.pydantic_ai.model import steered
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "pydantic_ai":
        raise
    raise MissingExtraError.of("steerkit.integrations.pydantic_ai", "pydantic_ai") from None

__all__ = ["guard", "steered"]
