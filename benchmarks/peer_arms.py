"""The arms of `peers.py`: the work of `peer_work.py` done by each tool on one model's weights, in its users' usual way.

Tools that change the model they are given get a twin: modules of its own around the same weights.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from arms import TOP_K, Arms, Run
from peer_work import Arm, Codec, Records, Site, Work, Write, by_hand, delta, reconstruct, tokenizer, twin
from torch import Tensor

from steerkit.sae import SaeSet
from steerkit.steer import attach, compile_plan

Host = Callable[[Mapping[int, Site]], Run]
"""Generates while the sites act; what a tool needs once is made before the first token."""


class Peers:
    """All arms of one model, SAEs and prompts."""

    def __init__(self, model: Any, saes: SaeSet, prompts: Tensor) -> None:
        self.model, self.saes, self.base = model, saes, Arms(model, saes, prompts)
        self.hand = {site.layer: by_hand(sae) for site, sae in saes.items()}
        self.inputs = {"input_ids": prompts, "attention_mask": self.base.batch.mask}
        self._made: dict[str, Any] = {}

    def arms(self, work: Work, say: Callable[[str], None]) -> dict[str, Arm]:
        """By name, plain first and once more; `say` is told of every tool that is left out and why."""
        head = self.model.lm_head
        plain = Arm(self.base.plain, "nothing", head)
        found = {"plain": plain, "plain again": plain, **self._steerkit(work), **self._sites("hooks", work)}
        for tool, arms in {
            "saelens": self._saelens,
            "bridge": self._bridge,
            "nnsight": lambda work: self._sites("nnsight", work),
            "pyvene": lambda work: self._sites("pyvene", work),
            "repeng": self._repeng,
        }.items():
            try:
                found |= arms(work)
            except ImportError as missing:
                say(f"{tool} is left out: {missing}; pip install -e '.[peers]'")
            except Exception as failure:  # a tool's own, of any kind; the others are still measured
                say(f"{tool} cannot do this here: {type(failure).__name__}: {failure}")
        return found

    def _steerkit(self, work: Work) -> dict[str, Arm]:
        head = self.model.lm_head
        if not work.features:
            run = self.base.steered(compile_plan([()], self.saes), trace=True)
            return {"steerkit, deferred trace": Arm(run, "record", head)}
        sparse, whole = (
            compile_plan([(work.policy(write_back),)], self.saes) for write_back in ("delta", "reconstruction")
        )

        def around(tokens: int) -> Any:
            with attach(self.model, sparse):
                return self.base.plain(tokens)

        return {
            "steerkit": Arm(self.base.steered(sparse), "delta", head),
            "steerkit.attach around generate": Arm(around, "delta", head),
            "steerkit, write_back: reconstruction": Arm(self.base.steered(whole), "reconstruction", head),
        }

    def _sites(
        self, tool: str, work: Work, codecs: Mapping[int, Codec] | None = None, name: str = ""
    ) -> dict[str, Arm]:
        """What a tool that runs any function at a site does."""
        model, host = self._host(tool)
        codecs, name = codecs or self.hand, name or tool
        if not work.features:
            kept = Records()
            watched = host({layer: kept.site(layer, codecs[layer].encode) for layer in work.layers})

            def record(tokens: int) -> Records:
                kept.clear()
                watched(tokens)
                return kept

            return {f"{name}, top-{TOP_K} in line": Arm(record, "record", model.lm_head)}
        ways: dict[str, tuple[Callable[[int], Site], Write]] = {
            "full reconstruction": (lambda n: reconstruct(codecs[n], work, error=False), "reconstruction"),
            "with error term": (lambda n: reconstruct(codecs[n], work, error=True), "delta"),
        }
        if codecs is self.hand:
            ways["sparse delta by hand"] = lambda n: delta(self.saes[n], work), "delta"
        if tool != "hooks":
            ways.pop("with error term")
        runs = {way: host({layer: make(layer) for layer in work.layers}) for way, (make, _) in ways.items()}
        return {f"{name}, {way}": Arm(runs[way], write, model.lm_head) for way, (_, write) in ways.items()}

    def _host(self, tool: str) -> tuple[Any, Host]:
        """A model and how a tool generates with it, made once."""
        if tool not in self._made:
            self._made[tool] = {"hooks": self._hooks, "nnsight": self._nnsight, "pyvene": self._pyvene}[tool]()
        made: tuple[Any, Host] = self._made[tool]
        return made

    def _hooks(self) -> tuple[Any, Host]:
        def host(sites: Mapping[int, Site]) -> Run:
            def run(tokens: int) -> Any:
                with ExitStack() as stack:
                    for layer, site in sites.items():
                        module = self.model.model.layers[layer].self_attn.o_proj
                        hook = module.register_forward_hook(lambda module, args, y, site=site: site(y))
                        stack.callback(hook.remove)
                    return self.base.plain(tokens)

            return run

        return self.model, host

    def _nnsight(self) -> tuple[Any, Host]:
        wrapper = importlib.import_module("nnsight.modeling.transformers").TransformersModel
        model = twin(self.model)
        wrapped = wrapper(model, task="text-generation", tokenizer=tokenizer())

        def host(sites: Mapping[int, Site]) -> Run:
            def run(tokens: int) -> Any:
                with wrapped.generate(self.inputs, **self._limits(tokens)) as tracer:
                    for _ in tracer.iter[:tokens]:
                        for layer, site in sites.items():
                            changed = site(wrapped.model.layers[layer].self_attn.o_proj.output)
                            if changed is not None:
                                wrapped.model.layers[layer].self_attn.o_proj.output = changed
                    found = tracer.result.save()
                return found  # noqa: RET504 - nnsight runs the block's source elsewhere, where it may not return

            return run

        return model, host

    def _pyvene(self) -> tuple[Any, Host]:
        pyvene = importlib.import_module("pyvene")
        model = twin(self.model)

        def always(site: Site) -> Callable[..., Tensor]:
            def run(y: Tensor, source: Any = None) -> Tensor:
                changed = site(y)
                return y if changed is None else changed

            return run

        def host(sites: Mapping[int, Site]) -> Run:
            places = [
                {"component": f"model.layers[{layer}].self_attn.o_proj.output", "intervention": always(site)}
                for layer, site in sites.items()
            ]
            steered = pyvene.IntervenableModel(places, model=model)
            # given no locations, and the prompt too, it acts at every token
            return lambda tokens: steered.generate(self.inputs, intervene_on_prompt=True, **self._limits(tokens))[1]

        return model, host

    def _limits(self, tokens: int) -> dict[str, Any]:
        return {"min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}

    def _saelens(self, work: Work) -> dict[str, Arm]:
        saes = self._theirs()
        codecs = {layer: Codec(sae.encode, sae.decode) for layer, sae in saes.items()}
        return self._sites("hooks", work, codecs, "SAELens class in hooks")

    def _theirs(self, dtype: str = "float32") -> dict[int, Any]:
        """The same SAEs in SAELens' class."""
        library, configs = (importlib.import_module(f"sae_lens.saes.{name}") for name in ("sae", "standard_sae"))
        if dtype not in self._made:
            self._made[dtype] = found = {}
            for site, sae in self.saes.items():
                layer = site.layer
                where = library.SAEMetadata(hook_name=f"blocks.{layer}.attn.hook_out")
                config = configs.StandardSAEConfig(
                    d_in=sae.d_in, d_sae=sae.d_sae, dtype=dtype, apply_b_dec_to_input=False, metadata=where
                )
                found[layer] = configs.StandardSAE(config)
                for name, weights in sae.tensors.items():
                    found[layer].get_parameter(name).data.copy_(weights)
        made: dict[int, Any] = self._made[dtype]
        return made

    def _booted(self) -> tuple[Any, Any]:
        """The unembedding under SAELens' bridge, and the bridge."""
        if "bridge" not in self._made:
            kind = importlib.import_module("sae_lens.analysis.sae_transformer_bridge").SAETransformerBridge
            model = twin(self.model)
            head, model.config.architectures = model.lm_head, [type(model).__name__]
            self._made["bridge"] = head, kind.boot_transformers("random", hf_model=model, tokenizer=tokenizer())
        made: tuple[Any, Any] = self._made["bridge"]
        return made

    def _bridge(self, work: Work) -> dict[str, Arm]:
        """SAELens' own way: SAEs spliced into a TransformerLens bridge, with a hook on their features."""
        saes = self._theirs(str(self.model.dtype).removeprefix("torch."))  # others do not fit between its modules
        head, bridge = self._booted()
        bare = {"stop_at_eos": False, "do_sample": False, "verbose": False, "return_type": "tokens"}
        chosen = list(work.features)

        def plain(tokens: int) -> Any:
            return bridge.generate(self.inputs["input_ids"], max_new_tokens=tokens, prepend_bos=False, **bare)

        def spliced(act: Callable[[int], Callable[..., Any]], error: bool, tokens: int) -> Any:
            used = [saes[layer] for layer in work.layers]
            with bridge.saes(saes=used, use_error_term=error):
                places = [(bridge.get_sae_hook_name(saes[layer]), act(layer)) for layer in work.layers]
                with bridge.hooks(fwd_hooks=places):
                    return plain(tokens)

        def clamp(layer: int) -> Callable[..., Any]:
            def hook(features: Tensor, hook: Any) -> Tensor:
                features[..., chosen] = work.value
                return features

            return hook

        def record(tokens: int) -> Records:
            kept = Records()

            def act(layer: int) -> Callable[..., Any]:
                site = kept.site(layer, lambda features: features)
                return lambda features, hook: site(features)

            spliced(act, True, tokens)
            return kept

        found = {"SAELens bridge, no SAE": Arm(plain, "nothing", head)}
        if not work.features:
            return found | {f"SAELens bridge, with error term, top-{TOP_K} in line": Arm(record, "record", head)}
        return found | {
            "SAELens bridge, full reconstruction": Arm(
                lambda tokens: spliced(clamp, False, tokens), "reconstruction", head
            ),
            "SAELens bridge, with error term": Arm(lambda tokens: spliced(clamp, True, tokens), "delta", head),
        }

    def _repeng(self, work: Work) -> dict[str, Arm]:
        """A constant vector on each layer's residual: no SAE, so it is the floor and not the same work."""
        if not work.features:
            return {}
        repeng = importlib.import_module("repeng")
        model = twin(self.model)
        control = repeng.ControlModel(model, list(work.layers))
        vectors = {layer: self.saes[layer].W_dec[list(work.features)].sum(0) * work.value for layer in work.layers}
        control.set_raw_control({layer: vector.to(model.dtype) for layer, vector in vectors.items()})

        def run(tokens: int) -> Any:
            return control.generate(**self.inputs, **self._limits(tokens))

        return {"repeng, a vector": Arm(run, "vector", model.lm_head)}
