"""Progressive skeletonization: connection sensitivity again and again, while the network shrinks."""

from spl.criteria.connection_sensitivity import ConnectionSensitivity
from spl.criteria.schedules import Exponential


class IterativeSNIP(ConnectionSensitivity):
    """|Σ w ∂L/∂w| of the weights that are left, in 60 rounds of exponentially falling density; reads labelled data.

    de Jorge et al. 2021 (2006.09081), who let the score of Lee et al. 2019 (SNIP) see what pruning has done so far. A
    pruned weight never returns. 60 is the number of rounds in the authors' own examples.
    """

    schedule = Exponential(60)


class FORCE(ConnectionSensitivity):
    """Foresight connection sensitivity: |Σ w ∂L/∂w|, w dense and ∂L/∂w in the pruned network; reads labelled data.

    de Jorge et al. 2021 (2006.09081). A pruned weight has a score too, and returns if it is large enough.
    In 60 rounds of exponentially falling density, as in the authors' own examples.
    """

    revives = True
    schedule = Exponential(60)
