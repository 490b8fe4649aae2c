"""The TPM's protection against guessing."""

from __future__ import annotations

from typing import NamedTuple

from tpm2_pytss import ESAPI, TPM2_CAP, TPM2_PT

from hwsigner.errors import PinLockedError


class Lockout(NamedTuple):
    """The TPM's protection against guessing (TPM 2.0 Library, part 1, 19.8).

    Attributes:
        failures: wrong auth values that count now.
        limit: at so many, every protected key is locked.
        interval: seconds until one failure is forgotten; 0 where the protection is off.
    """

    failures: int
    limit: int
    interval: int

    @property
    def left(self) -> int | None:
        """How many more wrong auth values lock the TPM; None for any number."""
        return max(self.limit - self.failures, 0) if self.interval else None

    @property
    def way_out(self) -> str:
        """What to do about too many failures, as a hint."""
        return (
            f"Wait {self.interval} seconds, after which the TPM forgets one, "
            "or run tpm2_dictionarylockout --clear-lockout"
        )

    def error(self, tcti: str, subject: str) -> PinLockedError:
        """Return the error of a key that can't be used now.

        Args:
            tcti: the TPM's TCTI.
            subject: the key, as messages name it.
        """
        return PinLockedError(f"the TPM at {tcti} is in lockout, so {subject} can't be used", self.way_out)


def read_lockout(tpm: ESAPI) -> Lockout:
    """Ask the TPM how many wrong auth values it counts, and how many it stands."""
    _, answer = tpm.get_capability(TPM2_CAP.TPM_PROPERTIES, TPM2_PT.LOCKOUT_COUNTER, 3)
    return Lockout(*(item.value for item in answer.data.tpmProperties))
