"""Backbones: encoders of histories, trained to predict the next item chosen.

Public names: `backbone` (the contract, the registry, folders), `gru.GRU4Rec`, `sasrec.SASRec`,
`training.train_backbone`, `ranking.rank_targets`.
"""
