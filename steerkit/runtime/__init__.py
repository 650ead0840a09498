"""The way of a turn: render, generate under the policies, parse, judge, record. The only room that knows all others."""

from steerkit.runtime.loading import load
from steerkit.runtime.request import Request
from steerkit.runtime.runtime import Runtime
from steerkit.runtime.wrap import attach

__all__ = ["Request", "Runtime", "attach", "load"]
