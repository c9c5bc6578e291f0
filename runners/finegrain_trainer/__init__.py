"""Trainer of finegrain: supervised fine-tuning, token-level reward models, fine-grained PPO, generation.

A program, not a library: `python -m finegrain_trainer KIND --spec spec.json --workdir DIR`.
It reads files and writes files; it knows no database and touches no network unless its spec names a model hub.
"""
