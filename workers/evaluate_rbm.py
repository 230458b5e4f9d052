"""How good the RBM is: likelihood with its error bar, samples, filters, completed half images."""

import torch

import rbm
from workers.context import Outcome, RunContext, upstream
from workers.storage import Json
from workers.train_rbm import binary_rows, unit_grid

_N_SAMPLES = 64
_N_FILTERS = 64
_N_SAMPLE_SWEEPS = 200
_N_COMPLETED = 500  # images that the completion error is measured on
_N_SHOWN = 12  # of these, shown in the report


def trained_machine(context: RunContext) -> rbm.RBM:
    """The RBM that the training step has published."""
    tensors = upstream(context, "train_rbm").tensors
    return rbm.RBM.from_parameters(
        tensors["weights"], tensors["visible_bias"], tensors["hidden_bias"]
    )


def evaluate_rbm(context: RunContext) -> Outcome:
    """Likelihood of the test images, beside independent pixels, and pictures as arrays."""
    config = context.config.rbm
    machine = trained_machine(context)
    train, test = binary_rows(context.data, "train"), binary_rows(context.data, "test")
    likelihood = rbm.log_likelihood(
        machine,
        test,
        base_bias=machine.base_bias(train),
        n_chains=config.n_ais_chains,
        n_temperatures=config.n_temperatures,
        seed=config.seed,
    )
    values: dict[str, Json] = {
        "n_visible": machine.n_visible,
        "n_hidden": machine.n_hidden,
        "test_log_likelihood": likelihood.mean,
        "log_likelihood_stderr": likelihood.stderr,
        "log_partition_stderr": likelihood.log_partition_stderr,
        "lower": likelihood.lower,
        "upper": likelihood.upper,
        "method": likelihood.method,
        "effective_sample_size": likelihood.effective_sample_size,
        "n_chains": likelihood.n_chains,
        "n_temperatures": likelihood.n_temperatures,
        "is_reliable": likelihood.reliable,
        "floor_log_likelihood": rbm.independent_log_likelihood(train, test),
    }
    completion_values, tensors = _complete(context, machine, train, test)
    height, width = unit_grid(context.data)
    chains = upstream(context, "train_rbm").tensors["chain_visible"][:_N_SAMPLES]
    _, p_visible = rbm.tasks.sample(machine, chains, n_steps=_N_SAMPLE_SWEEPS, seed=config.seed)
    tensors["rbm_samples"] = p_visible.reshape(-1, height, width).to(torch.float32)
    filters = rbm.tasks.filters(machine, height, width, n_filters=_N_FILTERS)
    tensors["rbm_filters"] = filters.to(torch.float32)
    return Outcome({**values, **completion_values}, tensors)


def _complete(
    context: RunContext, machine: rbm.RBM, train: torch.Tensor, test: torch.Tensor
) -> tuple[dict[str, Json], dict[str, torch.Tensor]]:
    """Fill in the second halves of test samples; the floor is each unit's majority in training."""
    height, width = unit_grid(context.data)
    # A table is a single row of units: read it downwards to know its first half.
    known = rbm.tasks.upper_half_known(*((height, width) if height > 1 else (width, 1)))
    p_on = train.to(torch.float32).mean(dim=0)
    truth = test[:_N_COMPLETED].to(torch.float32)
    bias = machine.base_bias(train)
    completed = rbm.tasks.complete(
        machine, truth, known, base_bias=bias, seed=context.config.rbm.seed
    )
    majority = torch.where(known, truth, (p_on >= 0.5).to(torch.float32))
    values: dict[str, Json] = {
        "completion_error": rbm.tasks.wrong_pixels(completed.visible, truth, known),
        "completion_baseline_error": rbm.tasks.wrong_pixels(majority, truth, known),
    }
    hidden = torch.where(known, truth, torch.full_like(truth, torch.nan))
    rows = {
        "completion_original": truth,
        "completion_masked": hidden,
        "completion_completed": completed.p_visible.to(torch.float32),
    }
    return values, {k: v[:_N_SHOWN].reshape(-1, height, width) for k, v in rows.items()}
