"""What the user's sia: words mean, and what is said about words that make no sense."""

from __future__ import annotations

import pytest

from slurmsia.declaration import Declaration, DeclarationError, Level, format, parse


@pytest.mark.parametrize("comment", ["", "my experiment", "fantasia: gpus=1-8", "sia gpus=1-8"])
def test_a_comment_without_the_words_is_no_declaration(comment: str) -> None:
    assert parse(comment) is None


def test_every_key_of_the_documentation_is_read() -> None:
    comment = (
        "sia: gpus=1-16 types=a100,rtx level=adaptive batch=256:4096 local=16:128 unit=a100:2,rtx:8 target=12e6 "
        "signal=SIGUSR1@60 cpus=6 mem=48G time=total max_gpu_h=100 min_efficiency=0.5 weight=0.25 "
        "progress='samples ([0-9]+); done'"
    )
    assert parse(comment) == Declaration(
        min_gpus=1,
        max_gpus=16,
        level=Level.ADAPTIVE,
        types=("a100", "rtx"),
        batch_min=256,
        batch_max=4096,
        local_min=16,
        local_max=128,
        unit_gpus=(("a100", 2), ("rtx", 8)),
        target_samples=12e6,
        signal="USR1",
        grace_s=60.0,
        cpus_per_gpu=6,
        memory_mb_per_gpu=48 * 1024,
        time_mode="total",
        max_gpu_h=100.0,
        min_efficiency=0.5,
        weight=0.25,
        progress_regex="samples ([0-9]+); done",
    )


@pytest.mark.parametrize(
    ("comment", "level"),
    [
        ("sia:", Level.RIGID),
        ("sia: types=a100", Level.RIGID),
        ("sia: gpus=1-8", Level.MOLDABLE),
        ("sia: gpus=4", Level.MOLDABLE),
        ("sia: gpus=1-8 progress='n=([0-9]+)'", Level.MOLDABLE),
        ("sia: gpus=1-8 signal=USR1", Level.RESTARTABLE),
        ("sia: gpus=1-8 batch=256", Level.MOLDABLE),
        ("sia: gpus=1-8 batch=256 signal=USR1@30", Level.RESTARTABLE),
        ("sia: gpus=1-8 batch=256:512", Level.ADAPTIVE),
        ("sia: gpus=1-8 batch=256:512 level=restartable", Level.RESTARTABLE),
        ("sia: gpus=1-8 signal=USR1 level=rigid", Level.RIGID),
    ],
)
def test_the_level_follows_from_the_other_words_unless_it_is_said(comment: str, level: Level) -> None:
    declaration = parse(comment)
    assert declaration is not None
    assert declaration.level is level


def test_the_words_may_stand_after_other_text_and_end_at_a_semicolon() -> None:
    declaration = parse("project=x; sia: gpus=2-4; ticket 12")
    assert declaration == Declaration(min_gpus=2, max_gpus=4, level=Level.MOLDABLE)


def test_a_doubled_quote_is_one_quote() -> None:
    declaration = parse("sia: gpus=1-2 progress='it''s ([0-9]+)'")
    assert declaration is not None
    assert declaration.progress_regex == "it's ([0-9]+)"


@pytest.mark.parametrize(
    ("comment", "at", "says"),
    [
        ("sia: gpu=1-8", "gpu=", "did you mean gpus=?"),
        ("sia: gpus=8-1", "8-1", "write gpus=1-8"),
        ("sia: gpus=0-4", "0-4", "whole number from 1"),
        ("sia: gpus=1-8 gpus=2", "gpus=2", "said twice"),
        ("sia: fast please", "fast", "not a key=value word"),
        ("sia: gpus=", "gpus=", "no value"),
        ("sia: gpus=1-8 progress='n=", "'n=", "never closed"),
        ("sia: gpus=1-8 progress='('", "'('", "not a regular expression"),
        ("sia: gpus=1-8 progress='loss'", "'loss'", "must mark the samples"),
        ("sia: gpus=1-8 weight=2", "2", "at most 1"),
        ("sia: gpus=1-8 weight=nan", "nan", "greater than 0"),
        ("sia: gpus=1-8 target=1e999", "1e999", "greater than 0"),
        ("sia: gpus=1-8 signal=KILL@60", "KILL", "must be one of USR1"),
        ("sia: gpus=1-8 signal=USR1@soon", "USR1@", "seconds of grace"),
        ("sia: gpus=1-8 mem=lots", "lots", "memory per GPU"),
        ("sia: gpus=1-8 time=maybe", "maybe", "must be run"),
        ("sia: signal=USR1", "signal=", "needs gpus=MIN-MAX"),
        ("sia: gpus=1-8 level=adaptive", "level=", "range of the total batch"),
        ("sia: gpus=1-8 types=a100 unit=t4:2", "unit=", "does not allow"),
        ("sia: gpus=1-8 unit=16", "unit=", "more than the 8"),
        ("sia: gpus=1-8 batch=64:128 local=256:512", "local=", "more than the largest total batch"),
        ("sia: gpus=1-8 types=h200", "types=", "its GPU types are a100, rtx"),
        ("sia: " + "gpus=1-8 " * 100, "gpus=1-8 " * 99, "said twice"),
        ("sia: gpus=1-8 progress='" + "(a)" * 5000 + "'", " gpus=1-8", "longer than 2000"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_position(comment: str, at: str, says: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        parse(comment, known_types=("a100", "rtx"))
    assert says in caught.value.sentence
    assert comment[caught.value.position :].startswith(at)
    assert len(caught.value.sentence) < 400


def test_printing_says_only_what_differs_from_the_defaults() -> None:
    words = "sia: gpus=1-16 types=a100,rtx batch=256:4096 local=16:128 signal=USR1@60"
    declaration = parse(words)
    assert declaration is not None
    assert format(declaration) == words
