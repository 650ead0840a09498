"""What a policy is known by: its content's fingerprint, and the keys its readings have in a trace."""

from __future__ import annotations

import hashlib
import json

from steerkit.policy.policy import Policy


def fingerprint(policy: Policy) -> str:
    """`sha256:…` over the whole content; equal content, equal fingerprint."""
    said = policy.model_dump(mode="json")
    if said["guard"] and said["guard"]["undeclared_arguments"] is None:
        del said["guard"]["undeclared_arguments"]  # as before there was such a key: policies keep their fingerprints
    content = json.dumps(said, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def watch_key(policy: Policy, name: str) -> str:
    """Key in `Trace.watched` of a feature or probe: two policies may use one name for different features."""
    return f"{policy.name}.{name}"
