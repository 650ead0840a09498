"""Public benchmarks: their cases, their answers, and how a model scores."""
