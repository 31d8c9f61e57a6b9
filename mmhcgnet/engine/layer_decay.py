"""Layer-wise decay of the learning rate, for detectors and any other model."""

from __future__ import annotations

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Give earlier layers of the backbone smaller learning rates.

    The rate of a layer is ``layer_decay_rate`` times that of the layer behind it; necks and heads
    have the full one. MMPretrain's constructor knows its own classifiers alone, and MMDetection's
    ConvNeXt. ::

        optim_wrapper = dict(
            constructor="mmhcgnet.LayerDecayConstructor",
            paramwise_cfg=dict(layer_decay_rate=0.9, norm_decay_mult=0.0),
        )

    ``paramwise_cfg`` takes all that MMEngine's default constructor takes, and the factors multiply.
    The layers are what a backbone's ``get_layer_depth`` says, as :meth:`HCGNet.get_layer_depth`
    does, wherever in the model it stands.

    Raises:
        ValueError: If ``layer_decay_rate`` is not a number above 0, the optimizer has no ``lr``, or
            no part of the model has ``get_layer_depth``.
    """

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = "", **kwargs: object
    ) -> None:
        """Add the parameters of a model as MMEngine does, and scale their rates at the end.

        Args:
            params: Groups of parameters, to which one for each parameter is added.
            module: The model, or a part of it.
            prefix: The part's name.
            **kwargs: What MMEngine hands on from part to part.
        """
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:
            return
        rate = self.paramwise_cfg.get("layer_decay_rate", 1.0)
        if type(rate) not in (int, float) or not rate > 0:
            raise ValueError(
                f"paramwise_cfg.layer_decay_rate must be a number above 0, got {rate!r}."
            )
        if self.base_lr is None:
            raise ValueError("A decay of the learning rate needs optimizer.lr.")
        scales = self._scales(module, rate)
        for group in params:
            (parameter,) = group["params"]
            if parameter in scales:
                group["lr"] = group.get("lr", self.base_lr) * scales[parameter]

    def _scales(self, model: nn.Module, rate: float) -> dict[nn.Parameter, float]:
        """The factors on the learning rates of all parameters that have a depth."""
        scales: dict[nn.Parameter, float] = {}
        # A classifier has it, too, for its backbone.
        backbones = [
            (f"{name}.", part)
            for name, part in model.named_modules()
            if name and hasattr(part, "get_layer_depth")
        ]
        for prefix, backbone in backbones:
            for name, parameter in backbone.named_parameters():
                depth, layers = backbone.get_layer_depth(prefix + name, prefix)
                scales[parameter] = rate ** (layers - 1 - depth)
        if not scales:
            raise ValueError(
                "No part of the model has get_layer_depth, which a layer-wise decay of the "
                "learning rate asks for the depth of each parameter; HCGNet has it."
            )
        return scales
