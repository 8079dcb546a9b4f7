"""Isometry of layers: how far a layer is from it, and corrections that bring sparse layers back."""

from spl.isometry.approximate import ApproximateIsometry, OperatorIsometry
from spl.isometry.correction import Change, Correction, Residuals
from spl.isometry.gradient_descent import GradientDescentIsometry
from spl.isometry.residuals import isometry_residual, operator_residual, orthogonality_score

__all__ = [
    "ApproximateIsometry",
    "Change",
    "Correction",
    "GradientDescentIsometry",
    "OperatorIsometry",
    "Residuals",
    "isometry_residual",
    "operator_residual",
    "orthogonality_score",
]
