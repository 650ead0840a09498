"""The engine that runs vLLM: its scheduler makes the passes, a worker of ours steers them."""
