"""A feature's strongest contexts and statistics, against all texts run one by one and encoded whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerkit.chat.tokenizer import token_bytes
from steerkit.engine import load_model
from steerkit.errors import SaeError
from steerkit.lab.corpus import token_texts
from steerkit.lab.feature_statistics import QUANTILES, FeatureCounts
from steerkit.lab.find.contexts import feature_contexts
from steerkit.sae import Sae, SaeSet
from steerkit.sites import Feature, Site
from steerkit.steer import find_sites
from steerkit.testing import planted_saes, small_model

AROUND = 4
FEATURE = Feature(1, 5)
KINDS = [("relu", "attn_out"), ("topk", "attn_out"), ("relu", "attn_in"), ("topk", "attn_in"), ("jumprelu", "attn_out")]


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("tiny").tokenizer


@pytest.fixture(scope="module")
def texts():
    """Of many lengths, one empty; every second begins like all others, as conversations begin with their tools."""
    generator = torch.Generator().manual_seed(1)
    found = [torch.randint(1, 1000, (size,), generator=generator).tolist() for size in range(1, 200, 6)]
    head = torch.randint(1, 1000, (30,), generator=generator).tolist()
    return [[*head, *text] if number % 2 else text for number, text in enumerate([*found, []])]


def plain_values(model, saes, feature, text):
    """The feature at each token of one text: the model runs it alone, and the whole SAE encodes what was seen."""
    sae, seen = saes[feature.site], []
    handle = find_sites(model).hook(feature.site, seen.append)
    with torch.no_grad():
        model(input_ids=torch.tensor([text]))
    handle.remove()
    return sae.encode(seen[0][0])[:, feature.index]


def strongest(model, saes, feature, texts, around, once=True):
    """By brute force: value, and the tokens around, of each text's best place; each run of tokens once, or not."""
    found = []
    for text in filter(len, texts):
        values = plain_values(model, saes, feature, text)
        place = int(values.argmax())
        found.append((float(values[place]), tuple(text[max(0, place - around) : place + around + 1])))
    found = sorted((one for one in found if one[0] > 0), reverse=True)
    return [one for n, one in enumerate(found) if not once or one[1] not in [other[1] for other in found[:n]]]


@pytest.mark.parametrize(("kind", "point"), KINDS)
def test_the_best_contexts_are_the_best_of_all(model, tokenizer, texts, kind, point):
    """Values, order and places are those of brute force over every text; without joining equal ones they are not."""
    saes = planted_saes(model, kind=kind, points=[point])
    feature = Feature(Site(FEATURE.layer, point), FEATURE.index)
    found = feature_contexts(model, tokenizer, saes, feature, texts, top=12, around=AROUND)
    wanted = strongest(model, saes, feature, texts, AROUND)[:12]
    assert [one.value for one in found.best] == pytest.approx([value for value, _ in wanted], rel=1e-4)
    for one in found.best:
        text, end = texts[one.text], one.start + len(one.tokens)
        assert one.start == max(0, one.position - AROUND)
        assert end == min(len(text), one.position + AROUND + 1)
        values = plain_values(model, saes, feature, text)
        assert one.values == pytest.approx(values[one.start : end].tolist(), rel=1e-4, abs=1e-7)
        assert one.value == one.values[one.position - one.start] == max(one.values)
        assert one.value == pytest.approx(float(values.max()), rel=1e-4)
        assert one.tokens == token_texts(tokenizer, text)[one.start : end]
    runs = [tuple(texts[one.text][one.start : one.start + len(one.tokens)]) for one in found.best]
    assert len(set(runs)) == len(runs)


def test_what_stands_in_every_text_is_shown_once(model, tokenizer, texts):
    """A run of tokens that is best in several texts is one context; counted text by text, the control, it is many."""
    saes = planted_saes(model)
    head = [text[:31] for text in texts if len(text) > 60]
    feature = next(
        Feature(0, index)
        for index in range(64)
        if len(strongest(model, saes, Feature(0, index), head, AROUND))
        < len(strongest(model, saes, Feature(0, index), head, AROUND, once=False)) - 3
    )
    found = feature_contexts(model, tokenizer, saes, feature, head, top=100, around=AROUND)
    assert len(found.best) == len(strongest(model, saes, feature, head, AROUND))


@pytest.mark.parametrize(("kind", "point"), KINDS)
def test_statistics_are_those_of_the_whole_encoding(model, tokenizer, texts, kind, point):
    """Counts, density, mean, maximum and quantiles equal those over a plain forward; another feature's do not."""
    saes = planted_saes(model, kind=kind, points=[point])
    feature = Feature(Site(FEATURE.layer, point), FEATURE.index)
    heard = []
    found = feature_contexts(model, tokenizer, saes, feature, texts, report=heard.append)
    values = torch.cat([plain_values(model, saes, feature, text) for text in texts if text])
    assert (found.tokens, found.active) == (len(values), int((values > 0).sum()))
    assert found.tokens == sum(map(len, texts)) == heard[-1]
    counts = FeatureCounts(1)
    counts.add(values.unsqueeze(1))
    for name, table in counts.result().items():
        assert found.statistics[name] == pytest.approx(float(table), rel=0.04 if name in QUANTILES else 1e-4)
    other = feature_contexts(model, tokenizer, saes, Feature(Site(1, point), 6), texts)
    assert other.statistics["mean"] != pytest.approx(found.statistics["mean"], rel=1e-3)


def constant(saes, value):
    """The set with layer 0's features at one value everywhere."""
    sae = saes[0]
    same = Sae(torch.zeros_like(sae.W_enc), torch.full_like(sae.b_enc, value), sae.W_dec, sae.b_dec)
    return SaeSet("constant", [replace(saes.checkpoints[Site(0)], sae=same)])


def test_of_equal_ones_the_first_comes_first(model, tokenizer, texts):
    """Where every token is equal the earliest texts are shown at their first token; where all are 0, none is."""
    saes = planted_saes(model)
    even = feature_contexts(model, tokenizer, constant(saes, 2.5), Feature(0, 3), texts[::2], top=4)
    assert [(one.text, one.position, one.value) for one in even.best] == [(n, 0, 2.5) for n in range(4)]
    assert even.active == even.tokens
    none = feature_contexts(model, tokenizer, constant(saes, 0.0), Feature(0, 3), texts[::2], top=4)
    assert none.best == ()
    assert (none.active, none.statistics["max"]) == (0, 0)


def test_what_is_not_there_is_named(model, tokenizer):
    """A layer or index outside the set and texts without a token are errors that say what was expected."""
    saes = planted_saes(model)
    with pytest.raises(SaeError, match="no SAE for layer 7; it has layers 0 to 2"):
        feature_contexts(model, tokenizer, saes, Feature(7, 0), [[1]])
    with pytest.raises(SaeError, match="layer 1 has no feature 64; expected 0 to 63"):
        feature_contexts(model, tokenizer, saes, Feature(1, 64), [[1]])
    for nothing in ([], [[]]):
        with pytest.raises(SaeError, match="layer 1 feature 0: got no tokens"):
            feature_contexts(model, tokenizer, saes, Feature(1, 0), nothing)


@given(text=st.text(max_size=12), cut=st.integers(0, 30))
def test_joined_tokens_are_the_text(tokenizer, text, cut):
    """Whatever bytes the tokens stand for, and wherever they break off, joined they read as the whole does."""
    ids = list(tokenizer(text)["input_ids"])[: cut or None]
    assert "".join(token_texts(tokenizer, ids)) == token_bytes(tokenizer).text(ids)


def test_a_spread_character_stands_at_its_last_token(tokenizer):
    """The bytes of an emoji give no text until the last of them; a plain word gives its own at once."""
    ids = tokenizer("hi 😀")["input_ids"]
    pieces = token_texts(tokenizer, ids)
    assert pieces[-1] == "😀"
    assert pieces[-4:-1] == ("", "", "")
    assert token_texts(tokenizer, ids[:-1])[-1] == "\ufffd"
