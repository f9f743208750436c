"""One way to run any posterior: problems, samplers, checkpoints, results."""

from brutax.infer.checkpoint import CheckpointError as CheckpointError
from brutax.infer.checkpoint import Interrupted as Interrupted
from brutax.infer.fit import fit as fit
from brutax.infer.posterior import Posterior as Posterior
from brutax.infer.problem import Problem as Problem
