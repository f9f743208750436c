"""One way to run any posterior: problems, samplers, checkpoints, results."""

from brutax.infer.checkpoint import CheckpointError as CheckpointError
from brutax.infer.checkpoint import Interrupted as Interrupted
from brutax.infer.compare import BayesFactor as BayesFactor
from brutax.infer.compare import bayes_factor as bayes_factor
from brutax.infer.compare import bridge_evidence as bridge_evidence
from brutax.infer.compare import compare as compare
from brutax.infer.compare import log_prior_power as log_prior_power
from brutax.infer.fit import fit as fit
from brutax.infer.fit import fit_many as fit_many
from brutax.infer.outputs import AbstractOutputs as AbstractOutputs
from brutax.infer.outputs import Axis as Axis
from brutax.infer.outputs import Image as Image
from brutax.infer.outputs import Table as Table
from brutax.infer.posterior import Posterior as Posterior
from brutax.infer.problem import Problem as Problem
