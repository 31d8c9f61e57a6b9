"""Attacks on classifiers by foolbox: FGSM, and PGD that is never weaker.

Images are in [0, 1], and the distance between two is the largest difference of a pixel's channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmhcgnet.errors import UsageError

try:
    import eagerpy
    import foolbox
except ModuleNotFoundError as missing:
    raise UsageError("Attacks need foolbox: pip install 'mmhcgnet[analysis]'") from missing

FastGradientAttack = foolbox.attacks.LinfFastGradientAttack


class Classifier(nn.Module):
    """A classifier of MMPretrain as a function of images in [0, 1], for attacks.

    Args:
        model: The classifier, which is put into eval mode and loses its parameters' gradients.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, C, H, W)``, channels as packed by the pipeline, to scores ``(N, K)``.

        Order of channels, mean and standard deviation are left to the model's own preprocessor.
        """
        data = self.model.data_preprocessor(dict(inputs=images * 255), training=False)
        return self.model(data["inputs"], mode="tensor")


class BestIterateAttack(foolbox.attacks.LinfProjectedGradientDescentAttack):
    """PGD from the point of FGSM, of which each image keeps the best iterate.

    Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018,
    https://arxiv.org/abs/1706.06083. The best iterate is the first that is misclassified, else the
    one of the highest loss. As FGSM's point is the first iterate, whatever FGSM misleads is misled
    by this attack, too. An image that is misled takes no more steps.

    Args:
        steps: Steps after that of FGSM. Each is ``2.5 * epsilon / steps`` long, so that together
            they reach any point of the ball.
    """

    def __init__(self, steps: int) -> None:
        super().__init__(rel_stepsize=2.5 / steps, steps=steps, random_start=False)

    def run(
        self,
        model: foolbox.Model,
        inputs: Tensor,
        criterion: Any,
        *,
        epsilon: float,
        **kwargs: Any,
    ) -> Tensor:
        """Attack images.

        Args:
            model: What is attacked, with bounds.
            inputs: Images ``(N, C, H, W)``.
            criterion: The right classes ``(N)``, or foolbox's ``Misclassification`` of them.
            epsilon: The largest change of a pixel's channel.
            kwargs: Nothing; foolbox's interface.

        Returns:
            The best iterates ``(N, C, H, W)``.
        """
        wrapped, restore_type = eagerpy.astensor_(inputs)
        images, labels = wrapped.raw, getattr(criterion, "labels", criterion)
        labels = eagerpy.astensor(labels).raw
        best = FastGradientAttack().run(model, images, labels, epsilon=epsilon, **kwargs)
        # Judged as foolbox judges what FGSM returns: a score that is equal but for rounding must
        # not make a difference between the two attacks.
        clipped = self.distance.clip_perturbation(images, best, epsilon)
        left = (model(clipped).argmax(1) == labels).nonzero()[:, 0]
        x, highest = best[left], torch.full_like(left, -torch.inf, dtype=best.dtype)
        for step in range(self.steps + 1):
            if not len(left):
                break
            x = x.detach().requires_grad_()
            scores = model(x)
            losses = F.cross_entropy(scores, labels[left], reduction="none")
            right = scores.argmax(1) == labels[left]
            better = ~right | (losses > highest)
            best[left[better]] = x.detach()[better]
            if step == self.steps:
                break
            (gradient,) = torch.autograd.grad(losses.sum(), x)
            highest = torch.maximum(highest, losses.detach())[right]
            left, x, gradient = left[right], x.detach()[right], gradient[right]
            x = x + self.rel_stepsize * epsilon * gradient.sign()
            x = self.distance.clip_perturbation(images[left], x, epsilon).clamp(*model.bounds)
        return restore_type(eagerpy.astensor(best))


def make_attack(name: str) -> foolbox.attacks.base.FixedEpsilonAttack:
    """Make the attack ``fgsm``, or ``pgd-N`` of N steps."""
    if name == "fgsm":
        return FastGradientAttack()
    return BestIterateAttack(int(name.removeprefix("pgd-")))


def is_right(
    model: foolbox.PyTorchModel, images: Tensor, labels: Tensor, attack: str, epsilon: float
) -> Tensor:
    """Return which images are classified right after an attack.

    Args:
        model: The attacked :class:`Classifier` in foolbox's wrapper.
        images: Images ``(N, C, H, W)`` in [0, 1].
        labels: The right classes ``(N)``.
        attack: As for :func:`make_attack`; ``none`` leaves the images as they are.
        epsilon: The largest change of a pixel's channel.

    Returns:
        Booleans ``(N)``.
    """
    if attack == "none":
        return model(images).argmax(1) == labels
    _, _, misled = make_attack(attack)(model, images, labels, epsilons=epsilon)
    return ~misled


def check_epsilons(epsilons: Sequence[float]) -> list[float]:
    """Check sizes of attacks and sort them.

    Raises:
        UsageError: If one is not in [0, 1].
    """
    for epsilon in epsilons:
        if not 0 <= epsilon <= 1:  # nor is NaN
            raise UsageError(
                f"epsilons are between 0 and 1, as images are, and {epsilon:g} is not: divide "
                "what is meant for images of 0 to 255 by 255."
            )
    return sorted(set(epsilons))
