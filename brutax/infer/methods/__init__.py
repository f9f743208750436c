"""The methods, one module each, under the names by which strings call them."""

from brutax.infer.method import AbstractMethod
from brutax.infer.methods.dynesty import Dynesty as Dynesty
from brutax.infer.methods.emcee import Emcee as Emcee
from brutax.infer.methods.ensemble import Ensemble as Ensemble
from brutax.infer.methods.map import MAP as MAP
from brutax.infer.methods.mle import MLE as MLE
from brutax.infer.methods.nautilus import Nautilus as Nautilus
from brutax.infer.methods.nested import Nested as Nested
from brutax.infer.methods.nuts import NUTS as NUTS
from brutax.infer.methods.pocomc import PocoMC as PocoMC
from brutax.infer.methods.smc import SMC as SMC

METHODS: dict[str, type[AbstractMethod]] = {
    cls.name: cls
    for cls in (NUTS, Ensemble, Nested, SMC, MAP, MLE, Dynesty, Nautilus, Emcee, PocoMC)
}
