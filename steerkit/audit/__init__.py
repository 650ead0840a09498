"""Writes down what happened: canonical, chained by hashes, on disk before a turn is returned. Loads no torch."""

from steerkit.audit.canonical import canonical, plain
from steerkit.audit.events import append_approval, append_execution, approvals_of
from steerkit.audit.home import default_store, home
from steerkit.audit.record import Context, append_turn, body_of
from steerkit.audit.store import Store, StoredRecord
from steerkit.audit.trace import pack, unpack
from steerkit.audit.verify import Verified, verify

__all__ = [
    "Context",
    "Store",
    "StoredRecord",
    "Verified",
    "append_approval",
    "append_execution",
    "append_turn",
    "approvals_of",
    "body_of",
    "canonical",
    "default_store",
    "home",
    "pack",
    "plain",
    "unpack",
    "verify",
]
