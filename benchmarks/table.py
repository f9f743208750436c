"""The table of docs/benchmarks.md, made from the results of the benchmarks.

    python benchmarks/table.py          prints the table
    python benchmarks/table.py --write  puts it into docs/benchmarks.md
    python benchmarks/table.py --check  says whether docs/benchmarks.md has it

A line appears where its results are there, with what computed them and when.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import known

PAGE = Path(__file__).resolve().parents[1] / "docs/benchmarks.md"
BEGIN, END = "<!-- made by benchmarks/table.py: begin -->\n", "<!-- end -->\n"
MODELS = {"mist_small.h5": "25 486", "mist_medium.h5": "208 352", "mist_large.h5": "725 196"}
BITS = {True: "every dataset equal bit for bit", False: "DIFFERENT"}

Line = tuple[str, ...]  # what, measured, command, and the part of the record where it is not in it


def number(value: float, digits: int = 2) -> str:
    """A number with so many digits, and all those before the point."""
    value = float(value)
    if value == 0:
        return "0"
    places = digits - 1 - int(np.floor(np.log10(abs(value))))
    return f"{round(value, places):,.{max(places, 0)}f}".replace(",", " ")


def count(value: float) -> str:
    """A whole number, in groups of three digits from five on."""
    return f"{value:,.0f}".replace(",", " ") if value >= 10_000 else f"{value:.0f}"


def pair(values: dict[str, float], unit: str = "") -> str:
    """Median and worst."""
    return f"{number(values['median'])}{unit} (median), {number(values['worst'])}{unit} (worst)"


def exactness(settings: Any, results: Any) -> list[Line]:
    distance, default = results["total_variation"], results["default"]
    stars = distance["quadrature"]["stars"]
    groups = {
        kind: [v for k, v in default.items() if k.startswith(kind)]
        for kind in ("mean", "std", "ln evidence")
    }
    median, worst = (
        {kind: max(v[which] for v in group) for kind, group in groups.items()}
        for which in ("median", "worst")
    )
    share = results["draws"]["auto ESS/S"]
    command = "exactness.py"
    return [
        (
            f"Model weights against quadrature, {stars} hard stars",
            f"total variation {pair(distance['quadrature'])}; by the Laplace formula alone "
            f"{pair(distance['Laplace'])}",
            command,
        ),
        (
            f"Default path against quadrature, {count(settings['draws'])} draws",
            f"means within {number(median['mean'])} sigma (median), {number(worst['mean'])} "
            f"(worst); standard deviations within {number(100 * median['std'])} %, "
            f"{number(100 * worst['std'])} %; ln evidence within "
            f"{number(median['ln evidence'])}, {number(worst['ln evidence'])}",
            command,
        ),
        (
            "Effective draws per draw, at the defaults",
            f"{min(share):.2f}-{max(share):.2f} for each of these stars",
            command,
        ),
    ]


def calibration(settings: Any, results: Any) -> list[Line]:
    compared, draws = results["compared"], results["draws"]["default"]
    parts = []
    titles = {"means": "mean", "standard deviations": "std", "ln evidence": "ln evidence"}
    for title, kind in titles.items():
        rows = [row for name, row in compared.items() if name.startswith(kind)]
        z, width = (np.array([row[key] for row in rows]) for key in ("z_mean", "z_width"))
        parts.append(f"{title} {z[np.argmax(np.abs(z))]:+.2f}, {width.min():.2f}-{width.max():.2f}")
    ratio = [row["ratio_median"] for row in compared.values() if "ratio_median" in row]
    return [
        (
            f"Default against reference path, {settings['stars']} mock stars",
            f"differences divided by their Monte Carlo error, mean (the worst) and width: "
            f"{'; '.join(parts)}; median ratio of standard deviations "
            f"{min(ratio):.3f}-{max(ratio):.3f}",
            "calibration.py",
        ),
        (
            "Effective draws there",
            f"half or more of all for {100 * draws['half_or_more_effective']:.1f} % of stars; "
            f"{draws['unflagged_below_200']} below 200 without a flag",
            "calibration.py",
        ),
    ]


def against_brutus(settings: Any, results: Any) -> list[Line]:
    speed, stars = results["seconds_per_star"], settings["stars"]
    mine, theirs = speed["brutax"], speed["brutus"]
    large = settings["grid"] != "mist_medium.h5"
    command = "against_brutus.py"
    if large:
        command += f" --grid {settings['grid'].removesuffix('.h5')} --stars {stars}"
    lines = [
        (
            f"{stars} mock stars, {MODELS[settings['grid']]} models, {len(settings['bands'])} "
            f"bands, {settings['cores']} cores, whole fits to disk",
            f"{number(1e3 * mine['median'])} ms per star ({number(1e3 * mine['fastest'])}-"
            f"{number(1e3 * mine['slowest'])}); astro-brutus {settings['brutus']}: "
            f"{number(1e3 * theirs['median'], 3)} ms, {number(speed['ratio'])} times as long",
            command,
        )
    ]
    if large:
        return lines
    every = [v for v in results["agreement"]["all"].values() if isinstance(v, dict)]
    median = max(abs(row["mean"]["median"]) for row in every)
    scatter = max(abs(row["mean"][side]) for row in every for side in ("p16", "p84"))
    return [
        *lines,
        (
            "Difference of posterior means from brutus there",
            f"median within {number(median)} sigma, 16-84 % within {number(scatter)} sigma",
            command,
        ),
    ]


def stages(settings: Any, results: Any) -> list[Line]:
    each = results["stage_ms"]
    parts = ", ".join(f"{name} {number(value)}" for name, value in each.items())
    share = results["share_of_limit"]["both"]
    return [
        (
            f"Stages on one core, {MODELS[settings['grid']]} models [ms per star]",
            f"{parts}; tiles and scores reach {number(100 * share)} % of the rate of a matrix "
            f"product ({number(results['product_rate'] / 1e9)} Gflop/s)",
            "stages.py",
        )
    ]


def scaling(settings: Any, results: Any) -> list[Line]:
    lines = []
    for name, title in (
        ("models", "models"),
        ("bands", "bands"),
        ("stars", "stars"),
        ("error", "error of a flux"),
    ):
        points = results.get(name)
        if points:
            ends = [points[0], points[-1]]
            x = " to ".join(f"{p[name]:g}" if p[name] < 1 else count(p[name]) for p in ends)
            times = " to ".join(number(point["ms_per_star"]) for point in ends)
            most = max(point["peak_rss_mb"] for point in points) / 1e3
            lines.append(
                (
                    f"Whole fits against {title}, {x}",
                    f"{times} ms per star, {number(most)} GB at most",
                    f"scaling.py --only {name}",
                )
            )
    return lines


def stress(settings: Any, results: Any) -> list[Line]:
    run, half, none = (results[mode] for mode in ("float32", "float16", "no draws"))
    sizes = [number(mode["bytes_per_star"] / 1e3) for mode in (run, half, none)]
    return [
        (
            f"{count(run['stars'])} mock stars, {MODELS[settings['grid']]} models, to disk",
            f"{number(run['stars_per_s'], 3)} stars/s; memory {number(run['peak_rss_mb'] / 1e3)} "
            f"GB at most, {number(run['rss_mb_after_a_tenth'] / 1e3)} after a tenth and "
            f"{number(run['rss_mb_at_the_end'] / 1e3)} at the end; file "
            f"{number(run['file_mb'] / 1e3)} GB",
            "stress.py",
        ),
        (
            "Bytes per star on disk",
            f"{sizes[0]} kB; draws in half precision {sizes[1]} kB; without draws {sizes[2]} kB",
            "stress.py",
        ),
    ]


def accelerator(settings: Any, results: Any) -> list[Line]:
    with_draws, without, found = (results[k] for k in ("draws", "no draws", "stages"))
    limit, same = found["limits"], results["compared"]
    took = min(
        run["us_per_star"] for run in found.values() if isinstance(run, dict) and "ms" in run
    )
    return [
        (
            f"The same on one accelerator, {count(with_draws['stars'])} stars to disk",
            f"{number(with_draws['stars_per_s'], 3)} stars/s, without draws "
            f"{number(without['stars_per_s'], 3)}; {number(with_draws['seconds'])} s in all, with "
            "start-up and compiling",
            "accelerator.py",
        ),
        (
            "What limits it: one star of 2048 side by side",
            f"{number(took)} us, of which {number(limit['us_per_star']['memory'])} to move the "
            f"models of its tiles ({number(found['copy_rate'] / 1e12)} TB/s) and "
            f"{number(limit['us_per_star']['operations'])} to compute "
            f"({number(found['product_rate'] / 1e12)} Tflop/s), at the rates measured there",
            "accelerator.py",
        ),
        (
            f"Posteriors of the accelerator and of its host, {same['stars']} stars",
            f"means within {number(same['means_sigma']['worst'])} sigma, ln evidence within "
            f"{number(same['log_evidence_over_error']['worst'])} of its Monte Carlo error",
            "accelerator.py",
        ),
    ]


def orion(settings: Any, results: Any) -> list[Line]:
    measured = (
        f"{number(results['seconds'])} s with start-up, {number(results['peak_rss_mb'] / 1e3)} GB; "
        f"{count(results['fitted'])} fitted, {results['flags'].get('POOR_FIT', 0)} flagged as "
        "poor fits"
    )
    what = f"Orion catalogue, {results['stars']} real stars, {MODELS[settings['grid']]} models"
    return [(what, measured, "orion.py")]


def offsets(settings: Any, results: Any) -> list[Line]:
    parts = ("recovery", "evidence")
    runs = [(part, *item) for part in parts for item in results.get(part, {}).items()]
    lines = []
    for part, name, run in runs:
        asked = settings[part]
        injected, recovered, error = (
            100.0 * run[key] for key in ("injected", "recovered", "error of the mean")
        )
        sample = f"{asked['samples']} samples of {asked['stars']} stars"
        pulls = f"pulls: mean {run['mean pull']:.2f}, width {run['width of pulls']:.2f}"
        lines.append(
            (
                f"Offset of {name}: {injected:+.0f} % injected into {sample}",
                f"{recovered:+.2f} +- {error:.2f} %; {pulls}",
                f"offsets.py --only {part}",
            )
        )
    return lines


def dust(settings: Any, results: Any) -> list[Line]:
    lines: list[Line] = []
    if "speed" in results:
        ratio = results["speed"]["ratio"]
        measured = (
            f"{number(ratio['alone'])} times as fast as brutus alone, "
            f"{number(ratio['batch, per sight line'])} times per sight line in a batch, value "
            f"and gradient {number(ratio['value and gradient'])} times its value"
        )
        lines.append(
            ("Likelihood of 3 clouds, 500 stars x 50 draws", measured, "dust.py --parts speed")
        )
    if "many" in results:
        run = results["many"]
        what = f"Posteriors of 2 clouds, {run['lines']} sight lines x {run['stars']} stars"
        measured = (
            f"{number(run['seconds'])} s with compilation; distances off by "
            f"{number(100 * run['median |d / d_true - 1|'])} % (median)"
        )
        lines.append((what, measured, "dust.py --parts many"))
    if "recovery" in results:
        run = results["recovery"]
        measured = (
            f"{number(100 * run['within 1 sigma'])} % of {run['clouds']} distances within 1 sigma; "
            f"the number of clouds right by evidence in {number(100 * run['right number'])} %"
        )
        what = f"Clouds of {run['lines']} simulated sight lines"
        lines.append((what, measured, "dust.py --parts recovery"))
    if "orion" in results:
        low, middle, high = (1e3 * x for x in results["orion"]["main"]["distance"])
        measured = (
            f"main cloud at {middle:.0f} +{high - middle:.0f} -{middle - low:.0f} pc "
            f"(Zucker et al. 2020: 380 to 460 pc over Orion), {results['orion']['stars']} stars"
        )
        lines.append(("Clouds towards l = 204.7, b = -19.2", measured, "dust.py --parts orion"))
    return lines


def interruption(settings: Any, results: Any) -> list[Line]:
    what = f"Killed {len(results['kills'])} times, other batch sizes, other order"
    return [(what, BITS[results["pass"]], "interruption.py")]


def models(settings: Any, results: Any) -> list[Line]:
    grid = results["a grid of models in 8 bands"]
    own = results["the same, brutax with its own models [ms]"]
    files = results["the same, brutax on the same files [ms]"]["magnitudes"]
    population = "1000 EEPs x 21 mass ratios x 8 bands"
    theirs = results[f"{population}, brutus, its networks [ms]"]
    return [
        (
            f"A grid of {count(grid['models'])} models in 8 bands, from the models inside",
            f"{number(grid['seconds'])} s",
            "models.py",
        ),
        (
            f"A population: {population}",
            f"{number(own['magnitudes'])} ms, its gradient {number(own['gradient'])} ms; on "
            f"brutus' files {number(files)} ms, brutus itself {number(theirs)} ms",
            "models.py",
        ),
    ]


def cluster(settings: Any, results: Any) -> list[Line]:
    out: list[Line] = []
    for count_, run in results.get("speed", {}).items():
        own = run["ms"]
        for what, name in ((", 8 bands", ""), (", 8 bands, 21 mass ratios", "_coarse")):
            value, both = own[f"value{name}"], own[f"gradient{name}"]
            beside = ""
            if "brutus" in own:
                times = (number(own["brutus"] / x) for x in (value, both))
                beside = f"; brutus {number(own['brutus'])} ms: {' and '.join(times)} times that"
            out.append(
                (
                    f"Likelihood of a cluster of {count_} stars{what}: value, with its gradient",
                    f"{number(value)} ms, {number(both)} ms{beside}",
                    "cluster.py --only speed",
                )
            )
    if "smooth" in results:
        found = results["smooth"]
        rough, away = found["roughness_nats"], found["convergence"]["1 times"]["scatter"]
        out.append(
            (
                "ln L of 100 stars of 2 % against 16 times as many segments",
                f"scatter {number(away)} nats over the posterior; rough by "
                f"{number(max(rough.values()))} nats rms along the worst parameter",
                "cluster.py --only smooth",
            )
        )
    if "nuts" in results:
        run = results["nuts"]
        out.append(
            (
                "NUTS posterior of a cluster of 100 stars, 4 chains",
                f"{number(run['seconds'], 3)} s with compiling; R-hat {run['rhat']:.3f}, "
                f"{number(run['ess'], 3)} effective draws at least",
                "cluster.py --only nuts",
            )
        )
    if "recovery" in results:
        run = results["recovery"]
        inside = [np.mean(list(run[f"coverage_{level}"].values())) for level in (0.68, 0.95)]
        out.append(
            (
                f"{run['clusters']} simulated clusters with companions and 20 % field stars",
                f"truth within 68 % intervals {inside[0]:.0%}, 95 % {inside[1]:.0%}, over six "
                f"parameters; least p of uniform ranks {min(run['uniform_p'].values()):.2f}",
                "cluster.py --only recovery",
            )
        )
    if "m67" in results:
        run = results["m67"]
        post = run["posterior"]

        def line(name: str, digits: int, unit: str = "") -> str:
            mean, std = post[name]
            return f"{mean:.{digits}f} +- {std:.{digits}f}{unit}"

        out.append(
            (
                f"M67, {run['stars']} stars in {len(run['bands'])} bands",
                f"log age {line('loga', 3)}, [Fe/H] {line('feh', 3)}, "
                f"{line('distance_pc', 1, ' pc')}, A_V {line('av', 3)}, companions "
                f"{line('binary_fraction', 2)}",
                "cluster.py --only m67",
            )
        )
    return out


POSTERIORS = {
    "banana": "A banana in 5 dimensions",
    "two modes": "Two modes of weights 0.3 and 0.7 in 5 dimensions",
    "funnel": "A funnel in 5 dimensions",
    "cluster": "A cluster of 60 stars (beside nautilus)",
    "sight line": "A sight line of two clouds (beside nautilus)",
}


def inference(settings: Any, results: Any) -> list[Line]:
    out = []
    for name, title in POSTERIORS.items():
        parts = []
        for method in settings["methods"]:
            one = results.get(f"{name}: {method}")
            if not one:
                continue
            found = "no evidence"
            if np.isfinite(one["logz - exact"]):
                found = f"{one['logz - exact']:+.2f} +- {number(one['error'], 1)}"
            widths = "-".join(f"{x:.2f}" for x in one["widths"])
            calls = count(one["evaluations"]) if one["evaluations"] else "?"
            warned = "" if one["ok"] else ", warned"
            took = f"{number(one['seconds'])} s"
            parts.append(f"{method} {found}, {widths}, {calls}, {took}{warned}")
        if parts:
            what = (
                f"{title}: ln Z less the true one, standard deviations divided by the true ones, "
                "calls, seconds"
            )
            out.append((what, "; ".join(parts), "inference.py"))
        many = results.get(f"{name}: nested, many")
        if many:
            out.append(
                (
                    f"{title}: {many['fits']} fits by nested",
                    f"ln Z off by {many['bias']:+.3f} +- {many['its error']:.3f} on average; its "
                    f"scatter is {number(many['scatter over quoted'])} times the error given",
                    "inference.py --seeds",
                    f"{name}: nested, many",
                )
            )
    return out


def misfits(settings: Any, results: Any) -> list[Line]:
    lines = []
    for grid in results.values():
        kinds = grid["kinds"]
        usual = number(kinds["ordinary"]["ms per star"])
        times = [(k, x["times an ordinary one"]) for k, x in kinds.items() if k != "ordinary"]
        measured = ", ".join(f"{kind} {number(ratio)}" for kind, ratio in times)
        what = f"Stars that nothing fits, {count(grid['models'])} models: time of an ordinary one"
        lines.append((what, f"{measured} times {usual} ms", "misfits.py"))
    return lines


def startup(settings: Any, results: Any) -> list[Line]:
    lines = []
    for call, steps in results["first_posterior_seconds"].items():
        empty, warm = (steps[cache] for cache in ("empty", "warm, all kept"))
        what = f"`{call}` of one star after `import brutax`, {MODELS[settings['grid']]} models"
        parts = {
            "reading the grid": warm["read grid"],
            "ordering it": warm["order grid"],
            "tracing": warm["of the first: tracing"] + warm["of the first: lowering"],
            "loading programs": warm["of the first: compiling or loading"],
        }
        measured = (
            f"{number(empty['after import'])} s, compiling "
            f"{number(empty['of the first: compiling or loading'])}; with all programs in the "
            f"compilation cache {number(warm['after import'])} s: "
            + ", ".join(f"{part} {number(value)}" for part, value in parts.items())
            + f"; once more {number(warm['second posterior'])} s"
        )
        lines.append((what, measured, "startup.py"))
    return lines


LINES: dict[str, Callable[[Any, Any], list[Line]]] = {
    "exactness": exactness,
    "calibration": calibration,
    "against_brutus": against_brutus,
    "against_brutus_large": against_brutus,
    "stages": stages,
    "scaling": scaling,
    "stress": stress,
    "accelerator": accelerator,
    "orion": orion,
    "offsets": offsets,
    "dust": dust,
    "interruption": interruption,
    "models": models,
    "cluster": cluster,
    "inference": inference,
    "misfits": misfits,
    "startup": startup,
}


def machine(device: str) -> str:
    """The name of a device without marks."""
    return device.replace("(R)", "").replace(" Processor", "")


def lines() -> list[tuple[str, ...]]:
    """What, measured, command, machine and day of every result there is."""
    out: list[tuple[str, ...]] = []
    for name, read in LINES.items():
        record = known(name)
        if record:
            for line in read(record["settings"], record["results"]):
                what, measured, command, *part = line
                key = part[0] if part else command.partition("--only ")[2]
                run = record.get("parts", {}).get(key, record)
                where = f"{machine(run['device'])}; {run['date'][:10]}"
                out.append((what, measured, command, where))
    return out


def markdown() -> str:
    """The table of the page."""
    rows = [f"| {a} | {b} | `benchmarks/{c}` | {d} |\n" for a, b, c, d in lines()]
    return "".join(["| | measured | command | on |\n", "|---|---|---|---|\n", *rows])


def put(text: str) -> str:
    """A text with the table between its marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + markdown() + END + after


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument(
        "--write", action="store_true", help="puts the table into docs/benchmarks.md"
    )
    arguments.add_argument(
        "--check", action="store_true", help="fails if docs/benchmarks.md has another"
    )
    args = arguments.parse_args()
    text = PAGE.read_text()
    if args.check and put(text) != text:
        sys.exit(f"{PAGE.name} differs from the results: run `python benchmarks/table.py --write`")
    if args.write:
        PAGE.write_text(put(text))
    if not (args.check or args.write):
        for what, measured, command, where in lines():
            print(f"{what}\n    {measured}\n    {command}; {where}")


if __name__ == "__main__":
    main()
