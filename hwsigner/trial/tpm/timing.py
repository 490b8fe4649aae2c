"""How long signatures take. The times are for the report; no answer depends on them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.errors import HwsignerError
from hwsigner.trial.tpm.chip import TrialChip
from hwsigner.trial.tpm.making import KINDS, LoadedKey, loaded, make, parent, require, signs, template

_TIMES = 20
_MOST_SECONDS = 30.0  # For one measurement; what was measured until then counts.
_KINDS = ("ecc256", "ecc384", "rsa2048")


def measure(chip: TrialChip) -> dict[str, str]:
    """Return medians, by what was measured."""
    works = {"new key": _making, "signature, cold": _cold, "signature, resident": _resident}
    return {f"{KINDS[kind]}, {what}": _measured(chip, kind, work) for kind in _KINDS for what, work in works.items()}


def _measured(chip: TrialChip, kind: str, time_it: Callable[[TrialChip, TPM, str], str]) -> str:
    try:
        return chip.use(lambda tpm: time_it(chip, tpm, kind))
    except HwsignerError:
        return "not measured"


def _making(_: TrialChip, tpm: TPM, kind: str) -> str:
    """Measure making one key: for RSA, that takes a chip from seconds to a minute."""
    require(tpm, kind)
    return _median(lambda: make(tpm, template(kind)), 1)


def _cold(chip: TrialChip, tpm: TPM, kind: str) -> str:
    """Measure loading a key under its parent, a signature, and flushing the key."""
    key = chip.key(tpm, kind)
    with parent(tpm) as above:

        def sign() -> None:
            with tpm.temporary(lambda: tpm.esys.load(above, key.private, key.public)) as handle:
                signs(tpm, LoadedKey(key, handle))

        return _median(sign)


def _resident(chip: TrialChip, tpm: TPM, kind: str) -> str:
    """Measure a signature with a key that stays loaded."""
    with loaded(tpm, chip.key(tpm, kind)) as made:
        return _median(lambda: signs(tpm, made))


def _median(work: Callable[[], object], times: int = _TIMES) -> str:
    taken: list[float] = []
    while len(taken) < times and sum(taken) < _MOST_SECONDS:
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return f"{1000 * statistics.median(taken):.1f} ms, median of {len(taken)}"
