"""Data preparation for weakly supervised referring segmentation: phrases, proposals and their store."""

from prep.moved import install

install()
del install
