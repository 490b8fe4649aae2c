"""What keeps profiles from giving credentials on this machine: `examine` changes nothing, and returns findings."""

from hwsigner.doctor.course import Checks, Examination, examine
from hwsigner.findings import Finding

__all__ = ["Checks", "Examination", "Finding", "examine"]
