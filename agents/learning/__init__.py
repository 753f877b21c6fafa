"""How an agent learns: advantages and losses as pure functions, and the learners on top.

`Collector` plays, an `Experience` is a finished episode with its reward, a `Sample` the tokens and
frames of one of its roles. A learner adds advantages; `micro_batches` cuts what fits into memory,
`read` computes states, `losses` what to minimise, and `Optimiser` takes the step. `run` does so
step after step, and keeps checkpoints and a log.
"""
