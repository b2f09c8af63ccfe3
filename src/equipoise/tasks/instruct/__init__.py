"""Natural-language requests with constraints that a program can check, two by default.

    Tell me about lighthouses. Use at most 15 words. Write everything in lowercase.

A reply is right if it satisfies every constraint. Whether it names the topic is reported with each score (part
``topic``) and not rewarded, so a policy that games the constraints shows itself (part ``exploit``: right and off the
topic). Each split has topics, words, phrases and numbers of its own: what is learned must carry over to ones never
seen. The kinds follow the idea of verifiable instructions of IFEval (2311.07911); texts, ranges and checks are our own.
"""

from __future__ import annotations

from functools import partial

from equipoise.tasks.instruct.constraints import KINDS, compatible, names_topic, verify
from equipoise.tasks.instruct.prompts import draw
from equipoise.tasks.instruct.replies import demonstrate
from equipoise.tasks.instruct.words import VOCABULARY
from equipoise.tasks.procedural import between
from equipoise.tasks.splits import Drawn, fingerprint
from equipoise.types import Task

__all__ = ["KINDS", "compatible", "demonstrate", "draw", "names_topic", "task", "verify"]

SUMMARY = "Natural-language prompts with verifiable constraints."


def task(difficulty: int = 1, train: int = 4000, validation: int = 200, test: int = 500) -> Task:
    """Requests under constraints; replies of at most 48 tokens unless told otherwise.

    difficulty: 0 to 2, one less than there are constraints in a prompt. train, validation, test: prompts of these
    splits, at most."""
    between("instruct.difficulty", difficulty, 0, 2)
    sizes = {"train": train, "validation": validation, "test": test}
    for split, size in sizes.items():
        between(f"instruct.{split}", size, 1, 1_000_000)
    seed = fingerprint("instruct", difficulty)
    splits = {  # a vocabulary of its own makes a split; within it every prompt is welcome
        split: Drawn(split, size, partial(draw, VOCABULARY[split], difficulty + 1), seed, {split: 1.0})
        for split, size in sizes.items()
    }
    return Task(
        name="instruct",
        summary=SUMMARY,
        splits=splits,
        max_new_tokens=48,
        fingerprint=fingerprint("instruct", 2, difficulty, sorted(sizes.items())),
        verify=lambda prompts, texts: [verify(p, t) for p, t in zip(prompts, texts, strict=True)],
        demonstrate=demonstrate,
    )
