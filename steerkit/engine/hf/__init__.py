"""Generation through transformers: models, caches, prefix cache, CUDA graphs, sampling."""
