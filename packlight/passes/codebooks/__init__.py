"""Weights that share values: k-means tables, powers of two, two and three values."""

from packlight.passes.codebooks.exact import as_tables
from packlight.passes.codebooks.moments import input_moments
from packlight.passes.codebooks.options import KINDS, SCOPES, Codebooks
from packlight.passes.codebooks.share import share_weights

__all__ = ["KINDS", "SCOPES", "Codebooks", "as_tables", "input_moments", "share_weights"]
