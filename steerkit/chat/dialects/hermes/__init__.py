"""The hermes dialect of Qwen2.5, Qwen3, Granite 4 and SmolLM3: a call is a JSON object between two tokens."""

from steerkit.chat.dialects.hermes.tokens import HERMES

__all__ = ["HERMES"]
