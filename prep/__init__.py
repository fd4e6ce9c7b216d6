"""Preparation for weakly supervised referring segmentation: phrases, proposals and the store they live in."""

from prep.moved import install

install()
del install
