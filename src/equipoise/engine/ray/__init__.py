"""Learners that hold a model between them: FSDP2 ranks (``rank.Rank``), each a local engine with part of the weights.

What starts them, and samplers beside them, is to come; nothing here imports Ray yet.
"""
