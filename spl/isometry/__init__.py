"""The isometry of layers: measures of the distance from it, and corrections that bring sparse layers back to it."""

from spl.isometry.approximate import ApproximateIsometry, DefaultIsometry
from spl.isometry.change import Change
from spl.isometry.correction import Corrected, Correction
from spl.isometry.edge_of_chaos import EdgeOfChaos
from spl.isometry.givens import EOI
from spl.isometry.gradient_descent import GradientDescentIsometry
from spl.isometry.growth import isometric_growth
from spl.isometry.operator import OperatorIsometry
from spl.isometry.pruned_layer import PrunedLayer, Residuals
from spl.isometry.residuals import isometry_residual, operator_residual, orthogonality_score
from spl.isometry.sparse_orthogonal import SparseOrthogonal
from spl.isometry.structure import isometry_floor, structural_rank

__all__ = [
    "EOI",
    "ApproximateIsometry",
    "Change",
    "Corrected",
    "Correction",
    "DefaultIsometry",
    "EdgeOfChaos",
    "GradientDescentIsometry",
    "OperatorIsometry",
    "PrunedLayer",
    "Residuals",
    "SparseOrthogonal",
    "isometric_growth",
    "isometry_floor",
    "isometry_residual",
    "operator_residual",
    "orthogonality_score",
    "structural_rank",
]
