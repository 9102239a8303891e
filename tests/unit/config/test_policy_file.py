"""What the policy file promises a site admin: mistakes are named, and the printed example is the truth."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from slurmsia_cli.main import cli

from slurmsia.config import Config, ConfigError
from slurmsia.config.example import example
from slurmsia.config.loader import check, load

EXAMPLE = Path(__file__).parents[3] / "contrib" / "slurmsia.toml.example"


def write(folder: Path, text: str, name: str = "slurmsia.toml") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(write(tmp_path, "")) == Config()


def test_the_shipped_example_is_what_the_command_prints() -> None:
    assert EXAMPLE.read_text(encoding="utf-8") == example()


def test_the_example_changes_nothing_as_it_is_and_shows_true_defaults_when_uncommented(tmp_path: Path) -> None:
    assert load(write(tmp_path, example())) == Config()
    uncommented = re.sub(r"(?m)^#(\w+ = )", r"\1", example().replace("#[gpu_types.a100]", "[gpu_types.a100]"))
    config = load(write(tmp_path, uncommented))
    assert config.model_copy(update={"gpu_types": {}}) == Config()


def test_every_key_of_the_example_is_described() -> None:
    lines = example().splitlines()
    bare = [
        line
        for before, line in pairwise(lines)
        if re.match(r"#(\w+ = )|# Not set by default", line) and not before.startswith("# ")
    ]
    assert bare == []


def test_a_misspelt_key_a_wrong_type_and_an_unknown_policy_are_three_sentences_with_lines(tmp_path: Path) -> None:
    file = write(tmp_path, '[policy]\nname = "siia"\nrond_s = 60\nround_s = "sixty"\n')
    sentences = check(file)
    assert len(sentences) == 3
    assert any("unknown key `policy.rond_s`; did you mean `round_s`?" in s and f"{file}:3" in s for s in sentences)
    assert any("`policy.round_s` = 'sixty'" in s and f"{file}:4" in s for s in sentences)
    assert any("siia" in s and "sia" in s and f"{file}:2" in s for s in sentences)


def test_config_check_prints_the_sentences_and_exits_with_2(tmp_path: Path) -> None:
    file = write(tmp_path, "[slurm]\ncall_deadline = 3\n")
    result = CliRunner().invoke(cli, ["config", "check", str(file)])
    assert result.exit_code == 2
    assert "did you mean `call_deadline_s`?" in result.output


def test_conf_d_files_are_merged_in_name_order(tmp_path: Path) -> None:
    file = write(tmp_path, "[policy]\nround_s = 30\n[slurm]\nwrites_per_s = 5\n")
    write(tmp_path, "[policy]\nround_s = 40\n", "conf.d/10-a.toml")
    write(tmp_path, "[policy]\nround_s = 50\n", "conf.d/20-b.toml")
    config = load(file)
    assert (config.policy.round_s, config.slurm.writes_per_s) == (50, 5)


def test_a_mistake_in_conf_d_names_that_file(tmp_path: Path) -> None:
    file = write(tmp_path, "")
    broken = write(tmp_path, "[policy]\n\nround_s = -1\n", "conf.d/10-a.toml")
    (sentence,) = check(file)
    assert sentence.startswith(f"{broken}:3: `policy.round_s` = -1")


@pytest.mark.parametrize(
    ("raw", "words"),
    [(b"[policy", "is not TOML"), (b"[policy]\nname = '\xff'", "not UTF-8"), (b"x" * (2 << 20), "bytes long")],
)
def test_a_file_that_is_no_policy_file_is_refused_with_a_sentence(tmp_path: Path, raw: bytes, words: str) -> None:
    file = tmp_path / "slurmsia.toml"
    file.write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert words in caught.value.sentences[0]


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    (sentence,) = check(tmp_path / "none.toml")
    assert "slurmsia config example" in sentence
