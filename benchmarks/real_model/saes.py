"""SAEs of the stand-in by the recipe of the published FunctionGemma SAEs, beside their own table and better recipes.

    python benchmarks/real_model/saes.py OUT --model MODEL --data CONVERSATIONS.jsonl [--base FOLDER]

MODEL is the stand-in, CONVERSATIONS a JSONL file with `messages` and `tools`. Into OUT go `train.jsonl` and
`held_out.jsonl` (the conversations in a random order: the first --held-out ones, and as many of the others as
--tokens has room for), a folder of SAEs for each of --recipes, `runs.jsonl` with wall time, CPU time and peak memory of
each run, and `saes.json`, from which the tables are printed. Training and measuring are the commands `steerkit sae
train` and `steerkit sae health`. A run that is stopped, or that --minutes ends, goes on with the same command; what is
there is not computed again.

With --base the SAEs of the first recipe are held against the model that MODEL was tuned from.

The whole (18 layers, 300,000 tokens, five epochs) takes hours on a CPU: fewer --tokens, --epochs or --layers say so in
the tables.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from scipy.stats import spearmanr

from steerkit.engine import load_model
from steerkit.lab import read_corpus


class Published(NamedTuple):
    """One layer's row in the table of the published SAEs."""

    loss: float
    mse: float
    l0: int


PUBLISHED: Final = (
    *(Published(3.4457, 3.1244, 1225), Published(2.0052, 1.9042, 1386), Published(0.1182, 0.0759, 1546)),
    *(Published(0.1182, 0.0758, 3096), Published(0.0361, 0.0170, 1635), Published(0.0414, 0.0351, 399)),
    *(Published(0.0318, 0.0138, 1807), Published(0.0877, 0.0661, 1120), Published(0.0733, 0.0445, 1379)),
    *(Published(0.0561, 0.0317, 1569), Published(0.0997, 0.0852, 591), Published(0.0252, 0.0097, 3658)),
    *(Published(0.0565, 0.0395, 962), Published(0.0924, 0.0619, 1403), Published(0.2711, 0.2504, 709)),
    *(Published(0.1501, 0.1062, 1576), Published(0.1670, 0.1426, 870), Published(0.0385, 0.0218, 1470)),
)
"""Final loss, MSE and L0 by layer, as the card of mindchain/functiongemma-270m-sae prints them: SAEs of
google/functiongemma-270m-it at o_proj, 4,096 features, 5 epochs, batch size 1, AdamW at 1e-4, MSE + 0.01 * L1."""
