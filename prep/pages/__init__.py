"""Self-contained web pages: the template, its scripts and pictures, and the page about a store."""
