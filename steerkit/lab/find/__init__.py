"""From example conversations to features, probes and a policy."""
