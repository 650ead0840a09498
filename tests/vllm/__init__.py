"""Tests of the engine that runs vLLM, in an environment of their own: `python -m tests.vllm`."""
