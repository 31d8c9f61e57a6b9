"""Testing in the deployed form."""

from __future__ import annotations

from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmhcgnet.engine.deploy import switch_to_deploy
from mmhcgnet.errors import UsageError


@HOOKS.register_module()
class DeployHook(Hook):
    """Test the model in its deployed form.

    It switches all parts that have MMPretrain's method ``switch_to_deploy``, for good: the model
    cannot be trained afterwards.
    """

    # Before ChannelsLastHook, which is to convert the deployed weights.
    priority = "HIGH"

    def before_test(self, runner: Runner) -> None:
        """Switch the model.

        Raises:
            UsageError: If there is nothing to switch, it cannot be switched, or an ``EMAHook``
                would exchange its weights.
        """
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise UsageError(
                "An EMAHook would swap the model's weights during a test, but a deployed model has "
                "other ones: remove it from custom_hooks, as a checkpoint's state_dict already "
                "holds the averaged weights."
            )
        parts = switch_to_deploy(runner.model)
        print_log(f"Deployed: {', '.join(parts)}", logger="current")
