"""LangChain: a runtime as its chat model, and held calls as interrupts of its agents."""

from steerkit.errors import MissingExtraError

try:
    from steerkit.integrations.langchain.chat_model import ChatSteerkit
    from steerkit.integrations.langchain.held import HeldCalls
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("langchain", "langchain_core", "langgraph"):
        raise
    raise MissingExtraError.of("steerkit.integrations.langchain", "langchain") from None

__all__ = ["ChatSteerkit", "HeldCalls"]
