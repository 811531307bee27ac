"""U-Mamba (arXiv:2401.04722), Bot and Enc, 2-D and 3-D, in both checkpoint generations.

Generation 1 (January 2024) is nnU-Net's residual U-Net with Mamba layers, generation 2 (from March 2024) has residual
blocks of its own, nearest-neighbour upsampling and channel tokens. Modules carry the official state-dict names.
Letters: n number of stages, stage 0 at full resolution; f features and s strides per stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambaseg.nets.layers import Mamba, MambaLayer, convolution, instance_norm, scan_tokens, transposed_convolution
from mambaseg.nets.sizes import SizeRule

__all__ = ["BasicBlock", "ResBlock", "UMamba", "Upsample"]

Sizes = Sequence[Sequence[int]]
_SLOPE = 0.01


class ResBlock(nn.Module):
    """Two convolutions and a 1x1 shortcut that is always there and has no norm (generation 2)."""

    def __init__(self, c_in: int, c_out: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        ndim = len(kernel)
        self.conv1 = convolution(c_in, c_out, kernel, stride)
        self.norm1 = instance_norm(c_out, ndim)
        self.conv2 = convolution(c_out, c_out, kernel)
        self.norm2 = instance_norm(c_out, ndim)
        self.conv3 = convolution(c_in, c_out, (1,) * ndim, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c_in, *S) -> (batch, c_out, *S / stride)."""
        y = functional.leaky_relu(self.norm1(self.conv1(x)), _SLOPE)  # not in place: a norm returns a view
        y = self.norm2(self.conv2(y))
        return functional.leaky_relu(y + self.conv3(x), _SLOPE, inplace=True)


class _ConvNorm(nn.Module):
    """Convolution and instance norm under nnU-Net's names."""

    def __init__(self, c_in: int, c_out: int, kernel: Sequence[int], stride: Sequence[int] | None = None,
                 bias: bool = True) -> None:
        super().__init__()
        self.conv = convolution(c_in, c_out, kernel, stride, bias)
        self.norm = instance_norm(c_out, len(kernel))

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(x))
        return normed


class BasicBlock(nn.Module):
    """nnU-Net's basic residual block: identity shortcut, or pooling and a bias-free 1x1 projection if sizes differ."""

    def __init__(self, c_in: int, c_out: int, kernel: Sequence[int], stride: Sequence[int] | None = None) -> None:
        super().__init__()
        ndim = len(kernel)
        self.conv1 = _ConvNorm(c_in, c_out, kernel, stride)
        self.conv2 = _ConvNorm(c_out, c_out, kernel)
        shortcut: list[nn.Module] = []
        if stride is not None and any(step > 1 for step in stride):
            pool: Callable[..., nn.Module] = nn.AvgPool2d if ndim == 2 else nn.AvgPool3d  # see `layers.convolution`
            shortcut.append(pool(tuple(stride), tuple(stride)))
        if c_in != c_out:
            shortcut.append(_ConvNorm(c_in, c_out, (1,) * ndim, bias=False))
        self.skip = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c_in, *S) -> (batch, c_out, *S / stride)."""
        y = functional.leaky_relu(self.conv1(x), _SLOPE)  # not in place: a norm returns a view
        return functional.leaky_relu(self.conv2(y) + self.skip(x), _SLOPE, inplace=True)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement, then a 1x1 convolution (generation 2)."""

    def __init__(self, c_in: int, c_out: int, scale: Sequence[int]) -> None:
        super().__init__()
        self.scale = tuple(float(factor) for factor in scale)
        self.conv = convolution(c_in, c_out, (1,) * len(scale))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, c_in, *S) -> (batch, c_out, *S * scale)."""
        enlarged: Tensor = self.conv(functional.interpolate(x, scale_factor=list(self.scale), mode="nearest"))
        return enlarged


class _Blocks(nn.Module):
    """A stage of generation 1, whose blocks live under `.blocks`."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class _Stem1(nn.Module):
    """The stem of generation 1: one convolution under nnU-Net's name `convs.0`."""

    def __init__(self, c_in: int, c_out: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList([_ConvNorm(c_in, c_out, kernel)])

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.convs[0](x), _SLOPE)


def _stage(generation: int, c_in: int, c_out: int, kernel: Sequence[int], stride: Sequence[int],
           n_blocks: int) -> nn.Module:
    """The residual blocks of one resolution; the first takes the stride and the change of width."""
    rest = [BasicBlock(c_out, c_out, kernel) for _ in range(n_blocks - 1)]
    if generation == 2:
        return nn.Sequential(ResBlock(c_in, c_out, kernel, stride), *rest)
    return _Blocks(BasicBlock(c_in, c_out, kernel, stride), *rest)


def _mamba_layers(generation: int, features: Sequence[int], strides: Sizes, patch_size: Sequence[int]) -> nn.ModuleList:
    """Mamba after the encoder's stages (Enc).

    Generation 2 uses channel tokens where a map has no more voxels than channels, and in 2-D only every second stage
    counted back from the last.
    """
    layers: list[nn.Module] = []
    size = list(patch_size)
    last = len(features) - 1
    for i, width in enumerate(features):
        size = [extent // step for extent, step in zip(size, strides[i], strict=True)]
        if generation == 2 and len(size) == 2 and (last - i) % 2:
            layers.append(nn.Identity())
            continue
        channel_tokens = generation == 2 and math.prod(size) <= width
        layers.append(MambaLayer(math.prod(size) if channel_tokens else width, channel_tokens))
    return nn.ModuleList(layers)


class _Encoder(nn.Module):
    """Stem and stages; returns the output of each stage, full resolution first."""

    def __init__(self, generation: int, c_in: int, features: Sequence[int], kernels: Sizes, strides: Sizes,
                 n_blocks: Sequence[int], mamba_layers: nn.ModuleList | None) -> None:
        super().__init__()
        unit = (1,) * len(kernels[0])
        self.stem = (_stage(2, c_in, features[0], kernels[0], unit, n_blocks[0]) if generation == 2
                     else _Stem1(c_in, features[0], kernels[0]))
        if generation == 2 and mamba_layers is not None:  # the official order of keys differs between generations
            self.mamba_layers = mamba_layers
        widths = (features[0], *features)
        self.stages = nn.ModuleList(
            _stage(generation, widths[i], widths[i + 1], kernels[i], strides[i], n_blocks[i])
            for i in range(len(features)))
        if generation == 1 and mamba_layers is not None:
            self.mamba_layers = mamba_layers
        self.has_mamba = mamba_layers is not None

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        skips = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if self.has_mamba:
                x = self.mamba_layers[i](x)
            skips.append(x)
        return skips


class _Decoder(nn.Module):
    """From the deepest skip back to full resolution; a head at every level."""

    def __init__(self, generation: int, features: Sequence[int], kernels: Sizes, strides: Sizes,
                 n_blocks: Sequence[int], n_classes: int) -> None:
        super().__init__()
        ndim = len(kernels[0])
        unit = (1,) * ndim
        stages, ups, heads = [], [], []
        for j in range(len(features) - 1):
            level = len(features) - 2 - j
            below, width = features[level + 1], features[level]
            ups.append(Upsample(below, width, strides[level + 1]) if generation == 2
                       else transposed_convolution(below, width, strides[level + 1]))
            c_in = width if self._drops_skip(generation, ndim, level) else 2 * width
            stages.append(_stage(generation, c_in, width, kernels[level], unit, n_blocks[j]))
            heads.append(convolution(width, n_classes, unit))
        self.drops_top_skip = self._drops_skip(generation, ndim, 0)
        self.stages = nn.ModuleList(stages)
        if generation == 2:
            self.upsample_layers = nn.ModuleList(ups)
        else:
            self.transpconvs = nn.ModuleList(ups)
        self.seg_layers = nn.ModuleList(heads)

    @staticmethod
    def _drops_skip(generation: int, ndim: int, level: int) -> bool:
        """Whether a level goes on without its skip: the official 2-D networks of generation 2 do so at the top."""
        return generation == 2 and ndim == 2 and level == 0

    def forward(self, skips: list[Tensor], n_outputs: int) -> list[Tensor]:
        """Logits of the `n_outputs` finest levels, full resolution first."""
        x = skips[-1]
        outputs: list[Tensor] = []
        ups = self.upsample_layers if hasattr(self, "upsample_layers") else self.transpconvs
        n_levels = len(self.stages)
        for j in range(n_levels):
            x = ups[j](x)
            level = n_levels - 1 - j
            if level > 0 or not self.drops_top_skip:
                x = torch.cat((x, skips[level]), dim=1)  # upsampled features first
            x = self.stages[j](x)
            if level < n_outputs:
                outputs.insert(0, self.seg_layers[j](x))
        return outputs


def _limited(n_blocks: Sequence[int], first: int) -> list[int]:
    """Block counts with one block from index `first` on: the override of the official generation 2 constructors."""
    return [1 if i >= first else count for i, count in enumerate(n_blocks)]


class UMamba(nn.Module):
    """U-Mamba: a residual U-Net with Mamba at the bottleneck ("bot") or along the encoder ("enc").

    Sizes come from a plan; spatial sizes of the input must divide by the product of the strides. A "enc" network of
    generation 2 with channel tokens takes exactly `patch_size`.

    Parameters
    ----------
    variant : "bot" or "enc"
    in_channels, n_classes : channels in, logits out
    features_per_stage, kernel_sizes, strides : one entry a stage; the length of a kernel says 2-D or 3-D
    n_blocks_encoder, n_blocks_decoder : residual blocks a stage (n and n - 1 entries, decoder from the deepest);
        generation 2 reduces the deep half of the encoder and the shallow half of the decoder to one, as officially
    patch_size : network input size, needed by "enc"
    deep_supervision : return logits of every level rather than of the full resolution alone
    generation : 1 or 2, of the official checkpoints
    """

    def __init__(self, variant: str, in_channels: int, n_classes: int, features_per_stage: Sequence[int],
                 kernel_sizes: Sizes, strides: Sizes, n_blocks_encoder: Sequence[int], n_blocks_decoder: Sequence[int],
                 patch_size: Sequence[int] | None = None, deep_supervision: bool = False,
                 generation: int = 2) -> None:
        super().__init__()
        if variant not in ("bot", "enc"):
            raise ValueError(f"variant {variant!r}: bot or enc")
        if generation not in (1, 2):
            raise ValueError(f"generation {generation!r}: 1 or 2")
        if variant == "enc" and patch_size is None:
            raise ValueError("variant enc needs patch_size")
        n = len(features_per_stage)
        if generation == 2:
            n_blocks_encoder = _limited(n_blocks_encoder, math.ceil(n / 2))
            n_blocks_decoder = _limited(n_blocks_decoder, math.ceil((n - 1) / 2 + 0.5))
        self.deep_supervision = deep_supervision
        self.strides = tuple(tuple(stride) for stride in strides)
        is_bound = variant == "enc" and generation == 2 and patch_size is not None  # by its channel tokens
        self.size_rule = SizeRule(tuple(math.prod(steps) for steps in zip(*strides, strict=True)),
                                  exact=tuple(patch_size or ()) if is_bound else ())
        mamba_layers = (_mamba_layers(generation, features_per_stage, strides, patch_size)
                        if variant == "enc" and patch_size is not None else None)
        self.encoder = _Encoder(generation, in_channels, features_per_stage, kernel_sizes, strides, n_blocks_encoder,
                                mamba_layers)
        if variant == "bot":
            self._add_bottleneck(generation, features_per_stage[-1])
        self.decoder = _Decoder(generation, features_per_stage, kernel_sizes, strides, n_blocks_decoder, n_classes)
        self._initialise(zero_last_norm=generation == 1 and variant == "enc")

    def _add_bottleneck(self, generation: int, width: int) -> None:
        """Mamba on the deepest features, under the name of its generation."""
        if generation == 2:
            self.mamba_layer = MambaLayer(width)
        else:
            self.ln, self.mamba = nn.LayerNorm(width), Mamba(width)

    def _bottleneck(self, features: Tensor) -> Tensor:
        if hasattr(self, "mamba_layer"):
            mixed: Tensor = self.mamba_layer(features)
            return mixed
        if hasattr(self, "mamba"):
            return scan_tokens(features, self.ln, self.mamba)
        return features

    def _initialise(self, zero_last_norm: bool) -> None:
        """He initialisation of the map convolutions; norms and Mamba keep their own."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, a=_SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if zero_last_norm and isinstance(module, BasicBlock):
                for parameter in module.conv2.norm.parameters():  # scale and shift
                    nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits (batch, n_classes, *S), or with deep supervision a list of n - 1, full resolution first."""
        skips = self.encoder(x)
        skips[-1] = self._bottleneck(skips[-1])
        outputs: list[Tensor] = self.decoder(skips, len(skips) - 1 if self.deep_supervision else 1)
        return outputs if self.deep_supervision else outputs[0]
