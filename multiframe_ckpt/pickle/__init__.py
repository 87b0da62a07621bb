"""Pickles read as data. ``machine`` runs the opcodes into ``raw`` objects, ``known`` says which names are built, and
``resolve`` makes the tree.

The standard unpickler imports and calls whatever a file names; nothing here imports or calls anything by a file's word.
"""
