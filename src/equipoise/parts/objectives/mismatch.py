"""Sampler and learner compute one policy with two programs: a weight on the advantage for what they differ by."""

from __future__ import annotations

from dataclasses import replace

from equipoise.errors import ArgumentError
from equipoise.parts.objectives.over import MAX_LOG_RATIO
from equipoise.recipe import Recipe, Stream
from equipoise.types import Batch, Loss, Objective, Outputs


def truncated(objective: Objective, most: float = 2.0) -> Objective:
    """Truncated importance sampling (Ionides 2008, 10.1198/106186008X320456): A_t becomes w_t A_t with

        w_t = min(pi_old(y_t) / mu(y_t), most)

    old: the learner when the update began; mu: the log-probs that the sampler recorded. w is a fixed number at least 0,
    1 where the two agree and for tokens that were not sampled. A policy gradient's loss is proportional to the
    advantage, so it is multiplied by w, clipped or not; divergences from a reference read no advantage and stay whole.
    Of ``score_function``, whose action is the whole response, w is the mean of the response's weights.

    Metrics: ``importance``, the mean weight; ``importance_cut``, the share of tokens whose ratio was above ``most``.
    Raises ArgumentError for an objective that reads no advantage.
    """
    if not most >= 1:
        raise ArgumentError(f"truncated importance sampling at most {most:g}: expected at least 1, the usual is 2")
    if "advantage" not in objective.needs:
        raise ArgumentError(
            f"truncated importance sampling weighs advantages, and the objective {objective.formula!r} reads none. "
            "Leave it out, or use a method with a policy gradient"
        )

    def loss(out: Outputs, batch: Batch) -> Loss:
        old = out.logp.detach() if batch.old is None else batch.old
        apart = (old - batch.behaviour).where(~batch.behaviour.isnan(), 0.0)
        ratio = apart.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        weight = ratio.clamp(max=most)
        found = objective.loss(out, replace(batch, advantage=weight * batch.advantage))
        tokens = float(len(weight))
        mine = {"importance": (weight.sum(), tokens), "importance_cut": ((ratio > most).to(ratio.dtype).sum(), tokens)}
        return Loss(found.per_group, {**found.metrics, **mine})

    return replace(objective, loss=loss, formula=f"{objective.formula}, A := min(old/mu, {most:g}) A")


def weighted(recipe: Recipe, most: float) -> Recipe:
    """A method with ``truncated`` in every objective that reads an advantage. Raises ArgumentError where none does."""

    if not any(_weighable(s) for stage in recipe.stages for s in stage.streams):
        raise ArgumentError(
            f"--truncate {most:g} weighs advantages, and {recipe.name} has none. Leave it out, or choose a method that "
            "has a policy gradient"
        )

    def stream(s: Stream) -> Stream:
        return replace(s, objective=truncated(s.objective, most)) if s.objective and _weighable(s) else s

    return replace(recipe, stages=[replace(stage, streams=[*map(stream, stage.streams)]) for stage in recipe.stages])


def _weighable(s: Stream) -> bool:
    return s.objective is not None and "advantage" in s.objective.needs
