"""LangChain: a runtime as its chat model."""

from steerkit.errors import MissingExtraError

try:
    from steerkit.integrations.langchain.chat_model import ChatSteerkit
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "langchain_core":
        raise
    raise MissingExtraError.of("steerkit.integrations.langchain", "langchain") from None

__all__ = ["ChatSteerkit"]
