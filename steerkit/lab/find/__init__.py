"""From example conversations to features, probes and a policy."""

from steerkit.lab.find.causal import Causes, causes, fewest_positives, least_p
from steerkit.lab.find.contexts import Context, FeatureContexts, feature_contexts
from steerkit.lab.find.decisions import CASES, Decisions
from steerkit.lab.find.probes import FoundProbe
from steerkit.lab.find.search import Found, fewest_to_choose_on, find
from steerkit.lab.find.steering_edits import Controls, SteeringEdits, find_steering_edits
from steerkit.lab.find.top_logits import DecoderTokens, decoder_tokens
from steerkit.lab.find.write_policy import directions_beside, found_policy, refuse_present, write_found, write_policy

__all__ = [
    "CASES",
    "Causes",
    "Context",
    "Controls",
    "Decisions",
    "DecoderTokens",
    "FeatureContexts",
    "Found",
    "FoundProbe",
    "SteeringEdits",
    "causes",
    "decoder_tokens",
    "directions_beside",
    "feature_contexts",
    "fewest_positives",
    "fewest_to_choose_on",
    "find",
    "find_steering_edits",
    "found_policy",
    "least_p",
    "refuse_present",
    "write_found",
    "write_policy",
]
