from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from steerkit.tiny.training.evaluate import BOX, load


@pytest.fixture(scope="session")
def box_folder() -> Path:
    return BOX


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(BOX)


@pytest.fixture(scope="session")
def model() -> PreTrainedModel:
    return load(BOX)[0]
