"""Settings of losses, mining rules and samplers, checked against the signatures of their functions."""

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from nearfar.config.sections import AddedLoss, Batch, Loss
from nearfar.config.sentences import known_keys, sentence, unknown_key
from nearfar.errors import ConfigError, shortened, suggest

if TYPE_CHECKING:
    from nearfar.config.config import Config


def check_settings(config: "Config") -> None:
    """Check the losses and the sampler.

    Raises:
        ConfigError: with the nearest name that exists.
    """
    from nearfar.config.tried_loss import try_loss, try_sampler

    check_loss(config.loss)
    check_sampler(config.batch)
    try_loss("loss", config.loss)
    for number, added in enumerate(config.loss.add):
        try_loss(f"loss.add.{number}", added)
    try_sampler(config.batch)


def check_loss(loss: Loss) -> None:
    """Raise where a loss, its mining rule or one of their settings does not exist or has the wrong kind.

    Raises:
        ConfigError: with the nearest name that exists.
    """
    _check_one("loss", loss)
    for number, added in enumerate(loss.add):
        _check_one(f"loss.add.{number}", added)


def _check_one(place: str, loss: Loss | AddedLoss) -> None:
    from nearfar import losses, mining

    _known_name(f"{place}.name", loss.name, losses.names())
    _check(place, loss.settings, losses.settings(loss.name), known_keys(type(loss), f"{place}."))
    if loss.mining is not None:
        example = '{ name = "multi_similarity", epsilon = 0.1 }'
        _check_named(f"{place}.mining", loss.mining, mining.names, mining.settings, example)


def check_sampler(batch: Batch) -> None:
    """Raise where the sampler or one of its settings does not exist or has the wrong kind.

    Raises:
        ConfigError: with the nearest name that exists.
    """
    import nearfar.offline  # noqa: F401 (adds its sampler)
    from nearfar.data import samplers

    example = '{ name = "balanced", by = "instance" }'
    _check_named("batch.sampler", batch.sampler, samplers.names, samplers.settings, example)


def named(value: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings of ``"hard"`` or ``{name = "hard", …}``."""
    settings = {"name": value} if isinstance(value, str) else dict(value)
    return settings.pop("name"), settings


def _check_named(
    key: str,
    value: str | dict[str, Any],
    names: Callable[[], list[str]],
    settings: Callable[[str], Signature],
    example: str,
) -> None:
    if isinstance(value, dict) and not isinstance(value.get("name"), str):
        raise ConfigError(f"{key} needs a name, as in {example}.")
    name, own = named(value)
    _known_name(key if isinstance(value, str) else f"{key}.name", name, names())
    _check(key, own, settings(name), [f"{key}.name"])


def _known_name(key: str, name: str, known: list[str]) -> None:
    if name not in known:
        hint = suggest(name, known) or f" Known: {', '.join(known)}."
        raise ConfigError(f"{key} = {shortened(name)} does not exist.{hint}")


def _check(section: str, values: dict[str, Any], signature: Signature, others: list[str]) -> None:
    model = _model_of(signature)
    known = [*known_keys(model, f"{section}."), *others]
    for key in values:
        if key not in model.model_fields:
            raise unknown_key(f"{section}.{key}", known)
    try:
        model.model_validate(values)
    except ValidationError as error:
        raise sentence(error, model, f"{section}.") from None


def _model_of(signature: Signature) -> type[BaseModel]:
    fields: dict[str, Any] = {
        name: (
            Any if parameter.annotation is Parameter.empty else parameter.annotation,
            ... if parameter.default is Parameter.empty else parameter.default,
        )
        for name, parameter in signature.parameters.items()
    }
    rules = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    make: Callable[..., type[BaseModel]] = create_model
    return make("Settings", __config__=rules, **fields)
