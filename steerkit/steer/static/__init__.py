"""Steering as buffers of fixed shape: steps that a CUDA graph replays, and the kernels in them."""
