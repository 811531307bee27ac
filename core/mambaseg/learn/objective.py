"""What fine-tuning on corrections minimises, and which layers it moves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mambaseg.nets.umamba import UMamba
from mambaseg.train.loader import Batch
from mambaseg.train.losses import deep_supervision_loss, pool_target
from mambaseg.train.sample import UNLABELLED

__all__ = ["FREE", "VOLUMES", "Policy", "SparseObjective", "freeze"]


@dataclass(frozen=True)
class Policy:
    """How fine-tuning goes about it; the defaults are what the study in docs/learning.md chose for pictures.

    Parameters
    ----------
    rate : of AdamW at the start, then half a cosine to 0
    distil : weight of staying with the former model's answers where nothing is labelled, in corrected images
    rehearse : weight of the same in patches without any label: those of `mambaseg.learn.rehearsal`
    rehearsal_share : of the patches that are such
    pull : weight of the squared distance from the former weights (L2-SP, arXiv:1802.01483)
    frozen_stages : stages of the encoder, finest first, that stay as they are
    patch_size : longest side of a patch in voxels, where the network takes any size; None: the plan's
    batch_size : patches an iteration
    share_on_corrections : of the patches that are centred on something labelled; the others lie anywhere
    average : decay of the running mean of the weights that is kept
    validate_every : iterations between two looks at what early stopping keeps aside
    other_looks : see `mambaseg.train.augment.augmentation`
    fit_decoder : objects are found again by what the corrected ones say of their size and necks; see
        `mambaseg.learn.decoding.fit_decoder`
    """

    rate: float = 5e-4
    distil: float = 0.0
    rehearse: float = 5.0
    rehearsal_share: float = 0.5
    pull: float = 0.0
    frozen_stages: int = 0
    patch_size: int | None = 128
    batch_size: int = 4
    share_on_corrections: float = 1.0
    average: float = 0.9
    validate_every: int = 20
    other_looks: bool = True
    fit_decoder: bool = False


# A volume fills a patch: more of them are more copies of the same slices, fewer are more steps in the same time. The
# finest stages cost most and are left alone: what a volume looks like is known, where its parts end is learned
VOLUMES = Policy(rate=3e-4, batch_size=2, frozen_stages=2)
# Where a former network goes on answering for all other kinds of pictures, there is nothing to rehearse; patches of the
# same few regions are much alike, so that more steps are worth more than more patches a step
FREE = Policy(rate=2e-3, batch_size=2, rehearse=0.0, rehearsal_share=0.0, other_looks=False, fit_decoder=True)


class SparseObjective:
    """Dice and cross entropy on labelled voxels at every level, distillation on the others.

    Parameters
    ----------
    teacher : the former network in evaluation mode; it may have room for classes that it does not know
    n_known : outputs that it does know, the first ones
    """

    def __init__(self, teacher: nn.Module, policy: Policy, n_known: int) -> None:
        self.teacher, self.policy, self.n_known = teacher, policy, n_known
        self._held: list[tuple[nn.Parameter, Tensor]] = []

    def hold(self, network: nn.Module) -> None:
        """Pull the weights of `network` towards what they are now."""
        self._held = [(weight, weight.detach().clone()) for weight in network.parameters() if weight.requires_grad]

    def __call__(self, outputs: list[Tensor], batch: Batch) -> Tensor:
        """The loss; see `mambaseg.train.loop.Objective`."""
        targets = [pool_target(batch.target, output.shape[1], output.shape[2:], UNLABELLED) for output in outputs]
        loss = deep_supervision_loss(outputs, targets, True, UNLABELLED)
        if self.policy.distil or self.policy.rehearsal_share:
            loss = loss + self._distance(outputs[0], batch)
        if self._held:
            apart = sum((weight - before.to(weight.device)).square().sum() for weight, before in self._held)
            loss = loss + self.policy.pull * apart
        return loss

    def _distance(self, logits: Tensor, batch: Batch) -> Tensor:
        """Weighted mean divergence from the teacher's answer over the voxels without a label."""
        unknown = (batch.target[:, 0] == UNLABELLED).flatten(1)
        weight = torch.where(unknown.all(1), self.policy.rehearse, self.policy.distil)
        asked = weight > 0  # of other patches the teacher's answer would not count
        if not asked.any():
            return logits.new_zeros(())
        self.teacher.to(batch.image.device)
        is_half = logits.dtype in (torch.bfloat16, torch.float16)
        with torch.no_grad(), torch.autocast(logits.device.type, logits.dtype if is_half else None, enabled=is_half):
            former = self.teacher(batch.image[asked])
        former = former[0] if isinstance(former, list | tuple) else former
        old = former[:, : self.n_known].float().log_softmax(1)
        new = logits[asked, : self.n_known].float().log_softmax(1)
        apart = functional.kl_div(new, old, reduction="none", log_target=True).sum(1)
        return (weight[asked, None] * apart.flatten(1) * unknown[asked]).sum() / unknown.sum().clamp(min=1)


def freeze(network: nn.Module, n_stages: int) -> None:
    """Keep the stem and the first stages of a U-Mamba's encoder as they are; nothing where `n_stages` is 0."""
    if not n_stages or not isinstance(network, UMamba):
        return
    network.encoder.stem.requires_grad_(False)
    for stage in network.encoder.stages[:n_stages]:
        stage.requires_grad_(False)
