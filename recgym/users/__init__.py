"""Users: the contract, and the population learned from logs.

Public names: `model.UserModel`, `learned.LearnedUsers`, `fitting.fit_users`, `config.UserConfig`, `fidelity.fidelity`,
`storage.save_users`, `storage.load_users`.
"""
