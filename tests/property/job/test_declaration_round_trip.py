"""parse(format(d)) == d for every declaration, and no text makes the parser raise anything but its own error."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slurmsia.declaration import SIGNALS, Declaration, DeclarationError, Level, format, parse

names = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,8}", fullmatch=True)
positive = st.floats(min_value=1e-300, max_value=1e300, allow_nan=False)
fraction = st.floats(min_value=1e-9, max_value=1.0)


@st.composite
def declarations(draw: st.DrawFn) -> Declaration:
    low = draw(st.integers(1, 64))
    high = draw(st.integers(low, 4096))
    batch = draw(st.none() | st.tuples(st.integers(1, 10**6), st.integers(0, 10**6)))
    local = draw(st.none() | st.tuples(st.integers(1, 512), st.integers(0, 512)))
    types = tuple(draw(st.lists(names, max_size=3, unique=True)))
    if local is not None and batch is not None and local[0] > sum(batch):
        local = None
    levels = [level for level in Level if level is not Level.ADAPTIVE or (batch is not None and batch[1] > 0)]
    level = draw(st.sampled_from(levels))
    if level is Level.RIGID and draw(st.booleans()):
        low = high = 1
    units = {name: draw(st.integers(1, high)) for name in (*types, *draw(st.just(("*",)) | st.just(())))}
    signal = draw(st.none() | st.sampled_from(SIGNALS))
    return Declaration(
        min_gpus=low,
        max_gpus=high,
        level=level,
        types=types,
        batch_min=batch[0] if batch else None,
        batch_max=sum(batch) if batch else None,
        local_min=local[0] if local else None,
        local_max=sum(local) if local else None,
        unit_gpus=tuple(sorted(units.items())),
        target_samples=draw(st.none() | positive),
        signal=signal,
        grace_s=draw(st.none() | st.floats(1e-3, 86_400)) if signal else None,
        cpus_per_gpu=draw(st.none() | st.integers(1, 256)),
        memory_mb_per_gpu=draw(st.none() | st.integers(1, 10**7)),
        time_mode=draw(st.sampled_from(("run", "total"))),
        max_gpu_h=draw(st.none() | positive),
        min_efficiency=draw(st.none() | fraction),
        weight=draw(fraction),
        progress_regex=draw(
            st.none() | st.sampled_from(("n=([0-9]+)", 'it\'s "(\\d+)"; ok', "(?P<rate>[0-9.]+) img/s", "'' ([0-9]+)"))
        ),
    )


@given(declarations())
def test_what_is_printed_is_read_back_equal(declaration: Declaration) -> None:
    assert parse(format(declaration)) == declaration


@given(
    st.text(max_size=80)
    | st.lists(
        st.sampled_from(
            ["gpus=", "1-8", " ", "batch=1:2", "'", '"', "=", ";", "signal=USR1@", "unit=*:", "level=", "progress='("]
        )
        | st.text(max_size=5)
    ).map("".join)
)
def test_no_text_raises_anything_but_a_declaration_error_inside_the_comment(text: str) -> None:
    comment = "sia:" + text
    found: Declaration | DeclarationError | None
    try:
        found = parse(comment)
    except DeclarationError as error:
        found = error
    assert found is not None
    if isinstance(found, DeclarationError):
        assert 0 <= found.position <= len(comment)
        assert found.sentence.isprintable()
