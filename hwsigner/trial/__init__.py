"""Field trials: questions to AWS, TPMs and tokens, each with the answer that hwsigner expects.

`python -m hwsigner.trial tpm` and `token` ask them where somebody has the real thing, and `make trial-aws` does in a
clone. The tests ask the same questions of the emulator, swtpm and SoftHSM.
"""

from hwsigner.trial.questions import NotAskedError, Origin, Question, Result, Source, Verdict, ask_all
from hwsigner.trial.report import Scrubber, TrialReport

__all__ = ["NotAskedError", "Origin", "Question", "Result", "Scrubber", "Source", "TrialReport", "Verdict", "ask_all"]
