"""Integrity of the log: verification, checkpoints, proofs, redaction."""
