"""Phrases: referring expressions broken into short target-related phrases."""
