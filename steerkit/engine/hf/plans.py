"""Compiled plans, kept by the fingerprints of their policies."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

import torch

from steerkit.policy import Policy, fingerprint
from steerkit.sae import SaeSet
from steerkit.sites import Site
from steerkit.steer import Plan, compile_plan

_MOST: Final = 32
"""Most plans that are kept; each holds columns of the decoders that its policies touch."""


class Plans:
    """Plans over one set of SAEs, the least recently used dropped first; may be shared by threads."""

    def __init__(self, saes: SaeSet | None) -> None:
        self._saes = saes
        self._kept: OrderedDict[object, Plan] = OrderedDict()
        self._lock = threading.Lock()
        self.compiled = 0
        """Plans compiled so far."""

    def of(self, requests: Sequence[Sequence[Policy]], devices: Mapping[Site, torch.device]) -> Plan:
        """The plan of requests with these policies, as `compile_plan` makes it, which says its errors."""
        rows = dict.fromkeys(tuple(map(fingerprint, policies)) for policies in requests if policies)
        key = (tuple(rows), tuple(devices.items()))
        with self._lock:
            plan = self._kept.get(key)
            if plan is not None:
                self._kept.move_to_end(key)
                return plan
        with torch.inference_mode(False):  # it outlives whatever mode the caller is in
            plan = compile_plan(requests, self._saes, devices)
        with self._lock:
            self.compiled += 1
            self._kept[key] = plan
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)
        return plan
