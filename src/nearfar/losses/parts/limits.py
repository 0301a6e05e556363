"""What the settings of losses may be: one sentence for what they may not."""

from nearfar.errors import NearfarError

LEAST, MOST = 1e-9, 1e9
"""Between these a sharpness, or the inverse of one, can be computed with; beyond it can only be a mistake."""
MOST_BINS = 2**20


def check_positive(**given: float) -> None:
    """Refuse temperatures and sharpnesses that are not positive, or that nothing can be computed with.

    Raises:
        NearfarError: if one is.
    """
    names = " and ".join(given)
    got = ", ".join(f"{name}={value}" for name, value in given.items())
    if len(given) == 1:
        (got,) = (str(value) for value in given.values())
    if any(value <= 0 for value in given.values()):
        raise NearfarError(f"{names} must be positive; got {got}.")
    if any(not LEAST <= value <= MOST for value in given.values()):
        raise NearfarError(f"{names} must lie between {LEAST:g} and {MOST:g}; got {got}.")


def check_not_negative(**given: float) -> None:
    """Refuse margins and weights below 0.

    Raises:
        NearfarError: if one is.
    """
    for name, value in given.items():
        if value < 0:
            raise NearfarError(f"{name} must not be negative; got {value}.")


def check_bins(bins: int) -> None:
    """Refuse a number of bins that cannot be.

    Raises:
        NearfarError: if it cannot.
    """
    if bins < 1:
        raise NearfarError(f"bins must be at least 1; got {bins}.")
    if bins > MOST_BINS:
        raise NearfarError(f"bins must be at most {MOST_BINS}; got {bins}.")
