"""Reinforced fine-tuning (reft) with samples whose embeddings are contrasted with the demonstration's.

    e(S) = mean of W h_t over tokens t in S, weights softmax over S of the value head; W: a projection, random at first
    common: a longest common subsequence of a sample y_i and its prompt's demonstration, and the rest of either
    a_i = e(common tokens of y_i), b_i = e(rest of y_i), d_i = e(rest of the demonstration), a constant
    J = J_reft + contrast * mean over wrong i of
        log sum_j [exp(cos(a_i, a_j)/tau) + exp(cos(a_i, b_j)/tau)] - min(cos(a_i, d_i), 0.9)/tau, j: all samples
    ``of`` right: each right sample, e(all of y_i), to d = e(all of the demonstration), among all e(y_j); both: the sum

2508.15868. Of eleven published trainers "wrong" is the 8th and "both" the 10th, whose weights are used throughout; the
demonstration is read once a step, without gradient, as there, and costs a label. contrast = 0 is reft. Deviates: a
state is read before its token, not at it; tokens are aligned, not their text; and in what reft does.
"""

from dataclasses import replace
from typing import Literal

from equipoise.errors import ArgumentError
from equipoise.parts import objectives, signals
from equipoise.protocols import chain
from equipoise.recipe import About, Recipe
from equipoise.recipes.reft import reft
from equipoise.types import Task

SUMMARY = "Reinforced fine-tuning that contrasts embeddings of samples with the demonstration's."
ABOUT = About("Contrastive reinforced fine-tuning", "2508.15868", "rl", SUMMARY, ("verifier", "demonstrations"))


def carft(
    task: Task,
    *,
    contrast: float = 0.1,
    of: Literal["wrong", "right", "both"] = "wrong",
    tau: float = 0.2,
    width: int = 64,
    sft_share: float = 0.25,
    prompts: int = 8,
    samples: int = 8,
    kl: float = 0.05,
    epochs: int = 2,
    lr: float | None = None,
) -> Recipe:
    """Args: contrast: weight of the contrast. of: the samples it is on, "wrong", "right" or "both". tau: temperature of
    cosines. width: columns of the projection. sft_share: of the budget, for demonstrations first. prompts, samples:
    drawn a step. kl: weight of the KL to the policy after them. epochs: updates a step. lr: peak learning rate."""
    if contrast < 0 or width < 1:
        raise ArgumentError(f"contrast={contrast:g}, width={width}: expected at least 0 and at least 1")
    plain = reft(task, sft_share=sft_share, prompts=prompts, samples=samples, kl=kl, epochs=epochs, lr=lr)
    if contrast == 0:
        return replace(plain, name="carft")
    (sft, ppo), head = plain.stages, f"embedding[{width}, random]"
    (stream,) = ppo.streams
    assert stream.signal is not None and stream.objective is not None
    objective = stream.objective
    sides: list[objectives.Sample] = ["right", "wrong"] if of == "both" else [of]
    for side in sides:
        objective += contrast * objectives.near_demonstration(side, head, tau)
    compared = chain(stream.signal, signals.beside_demonstration(task, head))
    more = replace(stream, signal=compared, objective=objective)
    return replace(plain, name="carft", stages=[sft, replace(ppo, streams=[more])])
