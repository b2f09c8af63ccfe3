"""Facts: the short answer is judged, and whether the long one is true to the context is told beside it."""

import pytest

from equipoise.tasks import facts
from equipoise.types import Prompt

PROMPT = Prompt(id="x", text="", answer="Oslo", meta={"context": "Ann lives in Rome. Bob lives in Oslo.", "who": "Bob"})


@pytest.mark.parametrize(
    ("text", "status", "faithful"),
    [
        ("Bob lives in Oslo => Oslo", "right", 1.0),
        ("Ann lives in Rome. Bob lives in Oslo. => Oslo.", "right", 1.0),  # nothing but the context
        ("Ann lives in Rome => Oslo", "right", 1.0),  # true, if not to the point
        ("Ann lives in Oslo => Oslo", "right", 0.0),
        ("Bob lives in Oslo. Ann lives in Lima => Rome", "wrong", 0.0),  # one of two is not
        ("=> Oslo", "right", 0.0),  # nothing said
        ("Bob lives in Oslo", "unparsed", 0.0),  # no long answer without a short one
    ],
)
def test_short_answer_is_judged_and_the_long_one_is_held_against_the_context(
    text: str, status: str, faithful: float
) -> None:
    score = facts.verify(PROMPT, text)
    assert (score.status, score.parts["faithful"]) == (status, faithful)
    assert score.value == (status == "right")  # no part of the reward


def test_demonstrations_are_right_and_faithful() -> None:
    made = facts.task()
    assert made.demonstrate is not None and made.verify is not None
    for prompt in made.splits["train"][:20]:
        (score,) = made.verify([prompt], [str(made.demonstrate(prompt))])
        assert score.value == score.parts["faithful"] == 1.0
