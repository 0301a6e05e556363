"""Numbers that can only be a mistake are refused before anything is read or written, and the key is named."""

from pathlib import Path

import pytest

from nearfar import losses, mining
from nearfar.config import Config
from nearfar.config.limits import LIMITS
from nearfar.errors import ConfigError

STRANGE = [
    "-1", "0", "nan", "inf", "-inf", str(10**19), "1e300", "-1e300", "x", "true", "1" + 400 * "0", 5000 * "1"
]  # fmt: skip
# What these may be: nothing, or any text.
FREE = {"data.source", "data.root", "data.unlabelled", "model.backbone"}
NUMERIC = [
    f"{section}.{key}"
    for section, field in Config.model_fields.items()
    for key in field.annotation.model_fields  # type: ignore[union-attr]
    if f"{section}.{key}" not in FREE
]


@pytest.mark.parametrize("key", NUMERIC)
def test_every_key_takes_what_it_can_use_and_names_itself_otherwise(key: str) -> None:
    accepted, told = [], []
    for value in STRANGE:
        try:
            Config.load("objects", [f"{key}={value}"])
        except ConfigError as error:
            told.append(str(error))
        else:
            accepted.append(value)
    assert all(key in text and len(text) < 1500 for text in told)
    assert set(accepted) <= {"0", "true"}
    assert not ("0" in accepted and "true" in accepted)


@pytest.mark.parametrize("name", losses.names())
def test_every_setting_of_a_loss(name: str) -> None:
    for key in losses.settings(name).parameters:
        for value in ("nan", "inf", str(10**19), "1e300", "-1e300", "1" + 400 * "0", '"x"'):
            with pytest.raises(ConfigError, match=rf"loss\.{key}\b") as caught:
                Config.load("objects", [f"loss.name={name}", f"loss.{key}={value}"])
            assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", mining.names())
def test_every_setting_of_a_mining_rule(name: str) -> None:
    for key in mining.settings(name).parameters:
        for value in ("nan", "inf", str(10**19), "1e300", '"x"'):
            rule = f'loss.mining={{name = "{name}", {key} = {value}}}'
            with pytest.raises(ConfigError, match=rf"loss\.mining\.{key}\b"):
                Config.load("objects", ["loss.name=contrastive", rule])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.name=supcon", "loss.temperature=0"], r"^loss\.temperature = 0 does not do: .*temperature"),
        (["loss.name=soft_triple", "loss.centres=-1"], r"^loss\.centres = -1 does not do: "),
        (["loss.name=supcon", "loss.temperature=1e-300"], r"^loss\.temperature = 1e-300 does not do: "),
        (['loss.add=[{name="ntxent", temperature=0}]'], r"^loss\.add\.0\.temperature = 0 does not do: "),
        (['loss.add=[{name="ntxent", weight=1e9}]'], r"^loss\.add\.0\.weight = 1000000000\.0 can only be"),
        (["loss.name=arcface", "loss.similarity=euclidean"], r"^loss\.similarity = 'euclidean' does not do: "),
        (['batch.sampler={name="offline", share=-3.0}'], r"^batch\.sampler\.share = -3\.0 does not do: "),
        (["optimizer.lr=1e5"], r"^optimizer\.lr = 100000\.0 can only be a mistake; expected .* from 0 to 100\."),
        (["memory.size=64", "memory.start_after=30", "train.steps=30"], r"^memory\.start_after = 30 leaves"),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.load("objects", overrides)


def test_limits_are_of_keys_that_there_are_and_let_the_defaults_pass() -> None:
    for section, limits in LIMITS.items():
        assert set(limits) <= set(Config.model_fields[section].annotation.model_fields)  # type: ignore[union-attr]
    Config.load("objects")


@pytest.mark.parametrize("depth", [90, 400, 5000])
def test_nonsense_that_is_nested(tmp_path: Path, depth: int) -> None:
    array, table = "[" * depth + "]" * depth, "{a=" * depth + "1" + "}" * depth
    file = tmp_path / "deep.toml"
    for value in (array, table):
        for key in ("loss.beta", "data.source", "batch.sampler", "loss.mining", "augment.scale", "loss.add"):
            with pytest.raises(ConfigError) as caught:
                Config.load("objects", [f"{key}={value}"])
            assert len(str(caught.value)) < 600
            section, name = key.split(".")
            file.write_text(f"[{section}]\n{name} = {value}")
            with pytest.raises(ConfigError) as caught:
                Config.load(file)
            assert len(str(caught.value)) < 600
    with pytest.raises(ConfigError, match="no setting lies so deep"):
        Config.load("objects", [".".join("a" * depth) + "=1"])
    file.write_text(f"[{'.'.join('a' * depth)}]\nb = 1")
    with pytest.raises(ConfigError):
        Config.load(file)


@pytest.mark.parametrize(
    "override",
    ["{}=1", "loss.{}=1", "loss.name={}", "train.device={}", "data.source={}", "batch.sampler={}", "{}", "loss.mining={}",
     "model.pooling={}", "augment.scale=[{}]", "optimizer.step_values=[{}]"],
)  # fmt: skip
def test_a_long_value_is_not_repeated(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load("objects", [override.format("1" * 10_000), "optimizer.schedule=multistep"])
    assert len(str(caught.value)) < 1500
    with pytest.raises(ConfigError) as caught:
        Config.load("q" * 10_000)
    assert len(str(caught.value)) < 1000
