"""Tasks with an enhancement network in front of the upstream, alone, fixed, or trained through the frozen encoder (IRIS)."""

from __future__ import annotations

from typing import Any

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Task
from wavlm_lightning.tasks.components.front_end import EnhancedUpstream, FrontEnd
from wavlm_lightning.tasks.components.front_end.trained_front_end import KEY, take_front_end
from wavlm_lightning.tasks.transformers_form import TransformersForm
from wavlm_lightning.upstreams import Upstream


class FrontEndTask(Task):
    """Another base of a task whose upstream may hear the answer of a front-end instead of the noisy recording.

    Three runs, as IRIS has them (arXiv 2204.00540): the front-end alone (`FrontEndEnhancement`), the head without one, then both,
    begun with `front_end_from` and `start_from`. The loss of the head then trains the front-end through the encoder, whose
    weights stay if it is frozen; there is no loss on the waveform. Checkpoints hold the front-end beside the head.

    A task with a trained front-end has another name: `-JOINT` behind that of the class, and `-SEP` if the front-end is fixed.

    Args:
        upstream: where features come from; a frozen one needs `differentiable: true` for a front-end that is trained.
        learning_rate: of the head.
        front_end: the network in front of the upstream; null for none.
        front_end_from: folder of a run, or a checkpoint, with whose front-end a new run begins: of `FrontEndEnhancement`, or of a
            task with a front-end. Null begins with that of `start_from`, or with random weights.
        front_end_frozen: keep the weights of the front-end.
        front_end_learning_rate: null for that of the head.
        settings: see `Task`, and the other base.
    """

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float,
        front_end: FrontEnd | None = None,
        front_end_from: str | None = None,
        front_end_frozen: bool = False,
        front_end_learning_rate: float | None = None,
        **settings: Any,
    ) -> None:
        others = {KEY: front_end_from, "model.front_end_learning_rate": front_end_learning_rate}
        if front_end is None and (asked := [name for name, value in others.items() if value is not None]):
            raise UserError(f"{asked[0]} is set, but model.front_end is not; name its class, or remove it")
        if front_end is None and front_end_frozen:
            raise UserError(
                "model.front_end_frozen is true, but model.front_end is not set; name its class, or remove it"
            )
        if front_end_frozen and front_end_learning_rate is not None:
            raise UserError(
                "model.front_end_learning_rate is set, but model.front_end_frozen is true; remove one of them"
            )
        if front_end is not None:
            upstream = EnhancedUpstream(upstream, front_end, front_end_frozen, front_end_learning_rate)
        super().__init__(upstream, learning_rate, **settings)
        self.front_end_from = front_end_from
        if front_end is not None:
            self.name = f"{type(self).name}-{'SEP' if front_end_frozen else 'JOINT'}"  # type: ignore[misc]

    def transformers_form(self) -> TransformersForm | str:
        if isinstance(self.upstream, EnhancedUpstream):
            return "it has a network in front of the encoder, which no model of transformers has"
        return super().transformers_form()

    def configure_model(self) -> None:
        fresh = self._trainer is not None and self.trainer.state.fn == "fit" and not (self.trained or self.started)
        taken = {} if not fresh or self.start_from else self._take_front_end()
        super().configure_model()
        if taken:
            self.started = taken

    def go_on(self) -> None:
        super().go_on()
        self.front_end_from = None

    def on_fit_start(self) -> None:
        """As every task, after refusing to train a head behind a network that is neither trained nor was."""
        upstream, begun = self.upstream, self.front_end_from or (self.start_from and self.start_with != "head")
        untrained = isinstance(upstream, EnhancedUpstream) and upstream.fixed and upstream.front_end.random
        # Not before: only now does Lightning say whether the run goes on with a checkpoint.
        if untrained and not (begun or self.trained or self.trainer.ckpt_path):
            raise UserError(
                "model.front_end_frozen is true, but the front-end has random weights; set model.front_end_from to the run that "
                "has trained it"
            )
        super().on_fit_start()

    def take_weights(self, source: str) -> dict[str, Any]:
        """As of every task; the front-end of `front_end_from` counts, also if `source` has one."""
        started, taken = super().take_weights(source), self._take_front_end()
        return {**started, "front_end": taken["checkpoint"]} if taken else started

    def _take_front_end(self) -> dict[str, Any]:
        if self.front_end_from is None:
            return {}
        assert isinstance(self.upstream, EnhancedUpstream)  # `__init__` refuses the rest
        return take_front_end(self.upstream.front_end, self.front_end_from)
