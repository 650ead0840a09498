"""Whether the log is what was written: verification, checkpoints, proofs, redaction."""
