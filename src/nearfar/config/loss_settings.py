"""The settings of a loss and of its mining rule, checked against the signatures of their functions."""

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from nearfar.config.sections import Loss
from nearfar.config.sentences import known_keys, sentence, unknown_key
from nearfar.errors import ConfigError, suggest


def check_loss(loss: Loss) -> None:
    """Raise where the loss, its mining rule or one of their settings does not exist or has the wrong kind.

    Raises:
        ConfigError: with the nearest name that exists.
    """
    from nearfar import losses, mining

    _known_name("loss.name", loss.name, losses.names())
    _check("loss", loss.settings, losses.settings(loss.name), known_keys(Loss, "loss."))
    if loss.mining is None:
        return
    rule = {"name": loss.mining} if isinstance(loss.mining, str) else dict(loss.mining)
    if not isinstance(rule.get("name"), str):
        raise ConfigError('loss.mining needs a name, as in { name = "multi_similarity", epsilon = 0.1 }.')
    key = "loss.mining" if isinstance(loss.mining, str) else "loss.mining.name"
    name = rule.pop("name")
    _known_name(key, name, mining.names())
    _check("loss.mining", rule, mining.settings(name), ["loss.mining.name"])


def _known_name(key: str, name: str, known: list[str]) -> None:
    if name not in known:
        hint = suggest(name, known) or f" Known: {', '.join(known)}."
        raise ConfigError(f"{key} = {name!r} does not exist.{hint}")


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
