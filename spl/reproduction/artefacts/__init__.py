"""The figures and tables of the paper, each in a file of its own."""

from spl.reproduction.artefacts.artefact import Artefact, ArtefactReport, Finding
from spl.reproduction.artefacts.compared_network import NetworkFigure
from spl.reproduction.artefacts.figure_1 import Figure1
from spl.reproduction.artefacts.figure_2 import Figure2
from spl.reproduction.artefacts.figure_3 import Figure3
from spl.reproduction.artefacts.figure_4 import Figure4
from spl.reproduction.artefacts.figure_5 import Figure5
from spl.reproduction.artefacts.figure_6 import Figure6
from spl.reproduction.artefacts.figure_7 import Figure7
from spl.reproduction.artefacts.figure_8 import Figure8
from spl.reproduction.artefacts.table_1 import Table1
from spl.reproduction.artefacts.table_2 import Table2
from spl.reproduction.artefacts.table_3 import Table3
from spl.reproduction.artefacts.table_4 import Table4

_ALL: tuple[Artefact, ...] = (
    Figure1(), Figure2(), Figure3(), Figure4(), Figure5(), Figure6(), Figure7(), Figure8(),
    Table1(), Table2(), Table3(), Table4(),
)  # fmt: skip
ARTEFACTS: dict[str, Artefact] = {artefact.name: artefact for artefact in _ALL}

OF_NETWORKS: dict[str, type[NetworkFigure]] = {figure.name: figure for figure in (Figure2, Figure4, Figure6)}
"""The figures that can be made of any network."""

__all__ = ["ARTEFACTS", "OF_NETWORKS", "Artefact", "ArtefactReport", "Finding"]
