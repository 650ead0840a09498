"""The box's architecture: Gemma 3's text model, as small as calls allow."""

from __future__ import annotations

from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GenerationConfig, PreTrainedTokenizerFast

from steerkit.tiny.training.tokenizer import STOPS


def config(tokenizer: PreTrainedTokenizerFast) -> Gemma3TextConfig:
    """The box's configuration: 0.9 million parameters, FunctionGemma's sliding window, layer types in turn."""
    return Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
        max_position_embeddings=2048,
        sliding_window=512,
        layer_types=["sliding_attention", "full_attention"] * 2,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stop_ids(tokenizer),
    )


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids of the tokens that end a generation."""
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[token] for token in STOPS]


def new_model(tokenizer: PreTrainedTokenizerFast) -> Gemma3ForCausalLM:
    """An untrained model (seed torch first), in float32, greedy by default."""
    model = Gemma3ForCausalLM(config(tokenizer))
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=stop_ids(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model
