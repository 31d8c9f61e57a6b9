"""Saving so that a crash, a full disk or a signal loses nothing that was saved before."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process, master_only
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmhcgnet.checkpoints import Checkpoint, encode_checkpoint, read_checkpoint
from mmhcgnet.checkpoints.checkpoint import RUN, UNIX_TIME
from mmhcgnet.checkpoints.durable_files import ATOMIC, remove_temporary, write_atomically
from mmhcgnet.checkpoints.newest import POINTER, name_pattern
from mmhcgnet.checkpoints.run_lock import lock_folder
from mmhcgnet.engine.carried_state import (
    CARRIED,
    collect,
    restore,
    warn_of_first_sizes,
    warn_of_lost_gradients,
)
from mmhcgnet.errors import UsageError
from mmhcgnet.paths import is_local
from mmhcgnet.weights import listed, not_finite

INTERRUPTED = "interrupted_iter_{}.pth"
# What the message hub, and so a checkpoint, calls the names of files that are still to be deleted,
# and of what an interrupted run has saved and the next save replaces.
_OUTDATED, _INTERRUPTED = "outdated_ckpts", "interrupted_ckpts"


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, with files that are whole or absent.

    It takes the same arguments. On a local disk a checkpoint is written to a temporary file,
    flushed to the disk, named, and only then ``last_checkpoint`` points at it; it holds its own
    SHA-256 (see :func:`~mmhcgnet.checkpoints.durable_files.seal`). Everywhere, what it replaces
    is deleted last: older checkpoints beyond ``max_keep_ckpts``, the former best ones, and what an
    :class:`InterruptHook` has saved. A checkpoint says what it replaces, so that a run that was
    killed before it could delete that does so when it resumes. Only what the run itself has saved
    is deleted, or the one that it resumed from: each run has an id, which its checkpoints hold and
    a resumed run takes over. A warning names the checkpoints of another run in the folder.

    Weights with NaN or inf are not saved. Paths of former checkpoints are looked up by their name
    in the folder of the run, which may have been moved.

    The first checkpoint of a run is read back, as a hook may add what no reader takes. While a run
    trains, it holds a lock of its folder (:func:`~mmhcgnet.checkpoints.run_lock.lock_folder`).

    Raises:
        UsageError: While saving, if weights are not finite or a file cannot be written, as on a
            full disk, or the first one cannot be read. What was saved before is still there.
    """

    def before_train(self, runner: Runner) -> None:
        """Prepare the folder, and tidy up what a killed run has left there."""
        if self.out_dir is not None:
            self.out_dir = str(self.out_dir)
        folder = self.out_dir or runner.work_dir
        if self.file_client_args is None and _writes_locally(folder, self.backend_args):
            self.backend_args = dict(backend=ATOMIC)
        self._local = (self.backend_args or {}).get("backend") == ATOMIC
        outdated = self._check_hub(runner)
        super().before_train(runner)
        if self._local and is_main_process():
            with suppress(OSError):  # the first save will say so
                os.makedirs(self.out_dir, exist_ok=True)
            self._lock = lock_folder(self.out_dir)
        self._name_run(runner)
        warn_of_lost_gradients(runner, self.interval, self.by_epoch)
        warn_of_first_sizes(runner)
        # A model may hold an infinity by design, as in a mask.
        infinite = not_finite(dict(runner.model.named_buffers()))
        self._infinite = {name.removeprefix("module.") for name in infinite}
        self._has_read_back = False
        self._former_bests: dict[str, str | None] = {}
        self._find_former(runner)
        resumed = runner._resume and self.last_ckpt and _is_same(self.last_ckpt, runner._load_from)
        self._saved_iter = runner.iter if resumed else None
        if is_main_process():
            if self._local:
                remove_temporary(self.out_dir)
            # The run that saved what this one resumes from may have been killed before it did this.
            if self.last_ckpt is not None:
                self._point(runner, self.last_ckpt)
            # The checkpoint that says so has been loaded, so it is safe.
            self._remove(runner, outdated)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that are not finite, and note the time in a form that has no time zone.

        Raises:
            UsageError: If some are not.
        """
        bad = {
            name
            for key in ("state_dict", "ema_state_dict")
            for name in not_finite(checkpoint.get(key, {}))
            if name.removeprefix("module.") not in self._infinite
        }
        if bad:
            raise UsageError(
                f"No checkpoint was saved at iteration {checkpoint['meta']['iter']}: "
                f"{listed(sorted(bad), 'of the weights not finite')}; {self._newest()}, and a "
                "lower learning rate or clipped gradients may keep the numbers finite."
            )
        checkpoint["meta"][UNIX_TIME] = time.time()
        if "optimizer" in checkpoint:
            checkpoint[CARRIED] = collect(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take over what MMEngine does not."""
        if runner._resume:
            restore(runner, checkpoint.get(CARRIED))

    def after_train(self, runner: Runner) -> None:
        """Save what is asked for at the end, and let others train in the folder."""
        super().after_train(runner)
        self.let_go(runner)

    def let_go(self, runner: Runner) -> None:
        """Let others train in the folder."""
        self._lock = None

    def save_interrupted(
        self, runner: Runner, epoch: int, iteration: int, everywhere: bool = False
    ) -> str | None:
        """Save what it takes to resume, at once, unless it was saved already.

        Args:
            runner: The runner.
            epoch: The number of epochs that are done.
            iteration: The number of iterations that are done.
            everywhere: Whether this process saves also if it is not the first of a distributed run.

        Returns:
            The file's path; ``None`` if nothing has been trained.
        """
        if iteration == 0:
            return None
        if self._saved_iter != iteration:
            name, hub = INTERRUPTED.format(iteration), runner.message_hub
            outdated = [former for former in self._interrupted(hub) if former != name]
            hub.update_info(_OUTDATED, outdated)
            hub.update_info(_INTERRUPTED, [name])
            meta = dict(epoch=epoch, iter=iteration)
            self._save(runner, name, meta, optimizer=True, scheduler=True, everywhere=everywhere)
            self._remove(runner, outdated)
        return self.last_ckpt

    def _check_hub(self, runner: Runner) -> list[str]:
        """Keep of what a checkpoint has put into the hub only what can be this hook's own.

        Anyone may have written that file, and MMEngine and this hook delete what it names.

        Returns:
            Names of files in the run's folder that are still to be deleted.
        """
        hub = runner.message_hub
        outdated = [name for name in _as_list(hub.get_info(_OUTDATED)) if self._is_own(name)]
        kept = [step for step in _as_list(hub.get_info("keep_ckpt_ids")) if type(step) is int]
        if self.max_keep_ckpts > 0:
            # MMEngine would delete a folder of this name, whatever it is.
            outdated += [self.filename_tmpl.format(step) for step in kept[: -self.max_keep_ckpts]]
            hub.update_info("keep_ckpt_ids", kept[-self.max_keep_ckpts :])
        return outdated

    def _is_own(self, name: object) -> bool:
        """Whether this hook or an :class:`InterruptHook` saves checkpoints by this name."""
        regular, interrupted = map(name_pattern, (self.filename_tmpl, INTERRUPTED))
        pattern = rf"(best_[^/\\]+_)?{regular}|{interrupted}"
        return isinstance(name, str) and re.fullmatch(pattern, name) is not None

    def _interrupted(self, hub: MessageHub) -> list[str]:
        return [name for name in _as_list(hub.get_info(_INTERRUPTED)) if self._is_own(name)]

    def _name_run(self, runner: Runner) -> None:
        """Give the run an id, or take over that of the run that it resumes."""
        ids = [None]
        if is_main_process():
            known = runner.message_hub.get_info(RUN) if runner._resume else None
            ids = [known if isinstance(known, str) else secrets.token_hex(8)]
            found = self._others(runner) if self._local else {}
            if not runner._resume and found:
                runner.logger.warning(
                    f"The folder {self.out_dir} holds checkpoints of another run "
                    f"({listed(sorted(found), 'files')}), and this run starts from scratch: it "
                    "overwrites those whose names it uses. To keep them, give it another work_dir; "
                    "to continue the other run, resume it."
                )
            later = sorted(name for name, i in found.items() if runner._resume and i > runner.iter)
            if later:
                ids = [secrets.token_hex(8)]  # or the next resumed run would go on from those
                runner.logger.warning(
                    f"This run continues from iteration {runner.iter}, but the folder "
                    f"{self.out_dir} holds later checkpoints of it ({listed(later, 'files')}): it "
                    "is taken for a new run now, and overwrites those whose names it uses."
                )
        broadcast_object_list(ids)
        runner.message_hub.update_info(RUN, ids[0])

    def _others(self, runner: Runner) -> dict[str, int]:
        """The iterations of the checkpoints in the folder; of a resumed run, of its own."""
        own, found = runner.message_hub.get_info(RUN), {}
        for path in Path(self.out_dir).glob("*"):
            if path.name.startswith("best_") or not self._is_own(path.name):
                continue
            try:
                outline = Checkpoint.open(str(path), in_full=False)
            except UsageError:
                continue
            if not runner._resume or (own and outline.run == own):
                found[path.name] = outline.iteration or 0
        return found

    def _find_former(self, runner: Runner) -> None:
        """Look for what the hub names in this run's folder, which may have been moved."""

        def here(key: str) -> str | None:
            path = runner.message_hub.get_info(key)
            name = os.path.basename(path) if isinstance(path, str) else None
            if not self._is_own(name):
                return None
            path = self.file_backend.join_path(self.out_dir, name)
            return path if self.file_backend.exists(path) else None

        self.last_ckpt = here("last_ckpt")
        self._set_bests(
            {key: here(f"best_ckpt_{key}" if key else "best_ckpt") for key in self._bests()}
        )

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        name = self.filename_tmpl.format(step)
        outdated = self._replaced_bests()
        if self.max_keep_ckpts > 0:
            # It is saved once more after a validation that was better.
            if step in self.keep_ckpt_ids:
                self.keep_ckpt_ids.remove(step)
            elif len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated.append(self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        outdated += self._interrupted(runner.message_hub)
        outdated = [former for former in outdated if former != name]
        runner.message_hub.update_info(_OUTDATED, outdated)
        runner.message_hub.update_info(_INTERRUPTED, [])
        self._save(runner, name, meta, self.save_optimizer, self.save_param_scheduler, **self.args)
        self._remove(runner, outdated)
        runner.message_hub.update_info(_OUTDATED, [])

    def _save(
        self,
        runner: Runner,
        name: str,
        meta: dict,
        optimizer: bool,
        scheduler: bool,
        everywhere: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write a checkpoint, then point at it."""
        path = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", path)
        try:
            # MMEngine lets the first process of a distributed run save alone.
            save = (
                Runner.save_checkpoint.__wrapped__ if everywhere else type(runner).save_checkpoint
            )
            save(
                runner,
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=optimizer,
                save_param_scheduler=scheduler,
                meta=meta,
                by_epoch=False,  # meta holds both
                backend_args=self.backend_args,
                **kwargs,
            )
        except OSError as error:
            raise self._not_written(f"The checkpoint {path}", error) from error
        if not self._has_read_back and self._local:
            self._read_back(path)
        self._has_read_back = True
        self.last_ckpt, self._saved_iter = path, meta["iter"]
        self._point(runner, path)

    @master_only
    def _read_back(self, path: str) -> None:
        """See to it early that what this run saves can be loaded: a hook may add anything to it."""
        try:
            read_checkpoint(path)
        except UsageError as error:
            raise UsageError(
                f"The first checkpoint of this run cannot be read back, so none could be: {error} "
                "Take what it names out of the data set's metainfo or the message hub."
            ) from error

    @master_only
    def _point(self, runner: Runner, path: str) -> None:
        pointer = os.path.join(runner.work_dir, POINTER)
        try:
            write_atomically(pointer, os.fsencode(path))
        except OSError as error:
            raise self._not_written(pointer, error) from error

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        # MMEngine deletes a former best one first, so it gets to know of none until all is saved.
        self._former_bests = self._bests()
        self._set_bests(dict.fromkeys(self._former_bests))
        try:
            super()._save_best_checkpoint(runner, metrics)
        except OSError as error:
            raise self._not_written("The best checkpoint", error) from error
        self._remove(runner, self._replaced_bests())
        new = {key: path for key, path in self._bests().items() if path}
        self._set_bests(self._former_bests | new)
        self._former_bests = {}

    def _bests(self) -> dict[str, str | None]:
        """The best checkpoints by their metrics; a single one, which may be "auto", by ""."""
        if self.save_best is None:
            return {}
        single = len(self.key_indicators) == 1
        return {"": self.best_ckpt_path} if single else dict(self.best_ckpt_path_dict)

    def _set_bests(self, bests: dict[str, str | None]) -> None:
        if "" in bests:
            self.best_ckpt_path = bests[""]
        else:
            self.best_ckpt_path_dict = bests

    def _replaced_bests(self) -> list[str]:
        """Names of former best checkpoints that a validation has found better ones than."""
        new = self._bests()
        return [
            os.path.basename(former)
            for key, former in self._former_bests.items()
            if former and new[key] and os.path.basename(former) != os.path.basename(new[key])
        ]

    @master_only
    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        if not self._local:
            return super()._publish_model(runner, ckpt_path)
        checkpoint = read_checkpoint(ckpt_path)
        published = {key: checkpoint[key] for key in self.published_keys if key in checkpoint}
        content = encode_checkpoint(published, ckpt_path)
        stem, digest = os.path.splitext(ckpt_path)[0], hashlib.sha256(content).hexdigest()
        path = f"{stem}-{digest[:8]}.pth"
        try:
            self.file_backend.put(content, path)
        except OSError as error:
            raise self._not_written(f"The checkpoint {path}", error) from error
        runner.logger.info(f"The checkpoint {ckpt_path} was published as {path}.")

    @master_only
    def _remove(self, runner: Runner, names: list[str]) -> None:
        for name in names:
            path = self.file_backend.join_path(self.out_dir, name)
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path) and _is_distributed(path):
                self.file_backend.rmtree(path)
            else:
                continue
            runner.logger.info(f"The checkpoint {path} was removed: a newer one has replaced it.")

    def _not_written(self, what: str, error: OSError) -> UsageError:
        return UsageError(
            f"{what} could not be written ({error.strerror or error}): free some space, or give "
            f"another default_hooks.checkpoint.out_dir, and resume; {self._newest()}."
        )

    def _newest(self) -> str:
        if self.last_ckpt is None:
            return "nothing was saved earlier"
        return f"earlier checkpoints are safe (newest: {self.last_ckpt})"


def _is_same(path: str, other: str | None) -> bool:
    return bool(other) and os.path.exists(other) and os.path.samefile(path, other)


def _as_list(value: object) -> list:
    return value if isinstance(value, list) else []


def _is_distributed(folder: str) -> bool:
    """Whether a folder is a checkpoint of DeepSpeed, FSDP or ColossalAI, as MMEngine saves them."""
    names = ("*model_states.pt", "rank*.pth", "meta.pth")
    return any(next(Path(folder).glob(name), None) for name in names)


def _writes_locally(folder: str, backend_args: dict | None) -> bool:
    return is_local(folder) and backend_args in (None, {}, dict(backend="local"))
