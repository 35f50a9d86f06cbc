"""The `.plt` file: a network in the fewest bytes, every bit of every tensor kept. docs/plt.md is its specification."""

from packlight.codec.account import Account, account
from packlight.codec.container import SUFFIX
from packlight.codec.package import load_packed, read_packed, save_packed
from packlight.codec.streams import Coder

__all__ = ["SUFFIX", "Account", "Coder", "account", "load_packed", "read_packed", "save_packed"]
