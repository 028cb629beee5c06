"""Faults of the package bfn."""

from fault import Fault

MODEL, CLI, CONFIGS, MAIN = (f"bfn/{name}.py" for name in ("model", "cli", "configs/__init__", "__main__"))
DATA, SPLITS, SHIPPED, BYTES = (f"bfn/data/{name}.py" for name in ("__init__", "splits", "shipped", "byte_pairs"))
TRAIN, RUNS, CHECKPOINT, RUN_LOCK = (f"bfn/training/{n}.py" for n in ("trainer", "runs", "checkpoint", "run_lock"))
BATCHES, PROCESSES, STATES, SHARDS, PROGRESS = (
    f"bfn/training/{name}.py" for name in ("batches", "processes", "states", "shards", "progress")
)
EVALUATE, TABLES, PLOTS = (f"bfn/results/{name}.py" for name in ("evaluate", "tables", "plots"))
PATCHES, PATCHED = "bfn_kernels/patch/{}.py".format, "tests/kernels/test_patch.py"
SOLVED = "tests/kernels/test_patch_solver.py"
PATCH, SOLVER = PATCHES("bayesian_flow_networks"), PATCHES("bfn_solver")
SAMPLERS, NN_TESTS = "bfn_kernels/samplers.py", "tests/kernels/test_nn.py"
HEAP = "tests/benchmarks/test_heap.py"
NETWORK, NN = "bfn/networks/{}.py".format, "bfn_kernels/nn/{}.py".format


def tests(name: str, keyword: str) -> str:
    return f"tests/bfn/test_{name}.py -k {keyword}"


FAULTS = [
    # a step of training
    Fault(TRAIN, "min(self.config.train.ema_decay, (1 +", "min(1.0, (1 +", tests("steps", "average_decays")),
    Fault(TRAIN, "self.ema.update_parameters(", "(lambda model: None)(", tests("steps", "average_decays")),
    Fault(TRAIN, "train.clip_norm)", "1e9)", tests("steps", "gradients_are_cut")),
    Fault(TRAIN, "* min(1.0, (self.at.step + 1) / train.warmup_steps)", "", tests("steps", "warm_up")),
    Fault(TRAIN, "betas = (0.9, train.beta_2)", "betas = (0.9, 0.99)", tests("steps", "adamw")),
    Fault(TRAIN, "weight_decay=train.weight_decay", "weight_decay=0.01", tests("steps", "adamw")),
    Fault(
        BATCHES,
        "spread_times(self.size, spread, train.n_steps)",
        "torch.rand(self.size)",
        tests("steps", "times_of_a_step"),
    ),
    Fault(BATCHES, "spread, train.n_steps)", "spread)", tests("steps", "times_of_a_step")),
    Fault(BATCHES, "derive(train.seed, STEPS, step))", "derive(train.seed, STEPS))", tests("steps", "times_of_a_step")),
    Fault(BATCHES, "derive(train.seed, STEPS, step, index)", "derive(0, STEPS, step, index)", tests("steps", "every_")),
    Fault(BATCHES, "train.seed, STEPS, step, index", "train.seed, STEPS, index", tests("steps", "every_step")),
    Fault(BATCHES, "train.seed, STEPS, step, index", "train.seed, STEPS, step", tests("batches", "one_process_takes")),
    Fault(BATCHES, "times[rows]", "times[: self.micro]", tests("batches", "do_not_depend")),
    Fault(BATCHES, "DRAWS, step, index", "DRAWS, step", tests("batches", "drawn_anew")),
    Fault(BATCHES, "DRAWS, step, index", "DRAWS, index", tests("batches", "drawn_anew")),
    Fault(BATCHES, "range(rank, self", "range(0, self", tests("batches", "one_process_takes")),
    Fault(
        BATCHES, "train.micro_batch or size // processes", "train.micro_batch or size", tests("batches", "share_of_a")
    ),
    Fault(BATCHES, "    if size % micro:", "    if False:", tests("batches", "not_equal")),
    Fault(BATCHES, "if size // micro % processes:", "if False:", tests("batches", "not_equal")),
    Fault(BATCHES, "is None and size % processes", "is None and False", tests("batches", "not_equal")),
    Fault(TRAIN, "derive(self.config.train.seed, WEIGHTS)", "WEIGHTS", tests("steps", "every_step")),
    Fault(TRAIN, "torch.manual_seed(batch.seed)  #", "torch.manual_seed(0)  #", tests("steps", "every_step")),
    Fault(BATCHES, "ORDER, epoch)", "ORDER)", tests("train", "an_epoch")),
    Fault(TRAIN, "self.model.train()\n", "pass\n", tests("steps", "dropout")),
    Fault(TRAIN, "self.optimizer.zero_grad()", "pass", tests("steps", "gradient_is_that_of_one_step")),
    Fault(TRAIN, "self.at.loss_sum += processes", "self.at.loss_sum = processes", tests("steps", "added_up")),
    Fault(TRAIN, "torch.stack(losses).mean()", "losses[0]", tests("steps", "one_by_one")),
    Fault(TRAIN, "backward(loss / passes)", "backward(loss)", tests("steps", "mean_of_those")),
    Fault(TRAIN, "if not self.optimizer.step_was_skipped:", "if True:", tests("scaled_gradients", "overflow")),
    Fault(TRAIN, "scaler.load_state_dict(", "scaler.state_dict.__class__(", tests("scaled_gradients", "scale_of")),
    Fault(TRAIN, "if not math.isfinite(self.at.loss_sum):", "if False:", tests("train", "not_finite")),
    # a step of sampling
    Fault(
        NN("classes"),
        "self.ops.update_sample(output, logits, alpha, out=logits, theta_out=theta,",
        "self.ops.update_sample(output, logits, alpha, out=logits,",
        tests("sample", "what_its_network_sees"),
    ),
    # between steps
    Fault(
        TRAIN, "self.averaged, self.data.validation", "self.averaged, self.data.test", tests("steps", "validation_is")
    ),
    Fault(TRAIN, "evaluate(self.averaged,", "evaluate(self.model,", tests("steps", "validation_is")),
    Fault(TRAIN, "seed=derive(train.seed, VALIDATION)", "seed=self.at.step", tests("steps", "validation_is")),
    Fault(TRAIN, "with self.accelerator.autocast():", "if True:", tests("steps", "precision")),
    Fault(TRAIN, "self.at.loss_sum / steps / math.log(2)", "self.at.loss_sum / steps", tests("steps", "in_bits")),
    Fault(TRAIN, 'self.at.step - (self.log[-1]["step"] if self.log else 0)', "self.at.step", tests("steps", "in_bits")),
    Fault(TRAIN, "self.at.loss_sum, self.at.stale = 0.0,", "self.at.stale =", tests("steps", "in_bits")),
    Fault(
        TRAIN,
        "with self.timed():\n                        self.validate()",
        "if True:\n                        self.validate()",
        tests("steps", "seconds"),
    ),
    Fault(
        TRAIN,
        "with self.timed():\n                    self.step()",
        "if True:\n                    self.step()",
        tests("steps", "seconds"),
    ),
    Fault(PROGRESS, 'self.log[-1]["step"] == self.at.step', "True", tests("cli", "fresh_starts_again")),
    Fault(PLOTS, "2 * span >= max(spans)", "span > 0", tests("plots", "from_the_log")),
    Fault(TRAIN, "states.copied(self.averaged)", "states.copied(self.bare)", tests("steps", "results_in")),
    Fault(TRAIN, "at.stale >= train.patience", "at.stale > train.patience", tests("train", "no_longer")),
    Fault(
        RUNS,
        "key not in FREE",
        'key not in FREE | {"train.learning_rate"}',
        tests("steps", "not_resumed"),
    ),
    Fault(RUNS, '("data", "model", "network", "train")', '("model", "network")', tests("steps", "not_resumed")),
    Fault(PROCESSES, "(signal.SIGINT, signal.SIGTERM)", "(signal.SIGINT,)", tests("steps", "saves_after_its_step")),
    Fault(PROCESSES, "        if number == signal.SIGINT:\n", "        if True:\n", tests("steps", "saves_after")),
    Fault(PROCESSES, "signal.signal(number, previous)", "pass", tests("steps", "during_a_run_alone")),
    Fault(TRAIN, "if stop and not self.finished:", "if stop:", tests("steps", "in_its_last_step")),
    Fault(STATES, 'state["state"] = moments_of(tensors)', "pass", tests("train", "interrupted_and_resumed")),
    Fault(STATES, "if wanted.get(name) != there.get(name):", "if False:", tests("train", "another_version")),
    Fault(STATES, "copy=True", "copy=False", tests("train", "are_copies")),
    # a run that is alone
    Fault(PROCESSES, "    refuse_lost_processes()\n", "", tests("alone", "before_any_work")),
    Fault(CLI, "        refuse_lost_processes()\n", "", tests("alone", "before_any_work")),
    Fault(
        CLI, "        refuse_several_processes()\n        if back", "        if back", tests("alone", "is_refused_to")
    ),
    Fault(PROCESSES, "accelerator.num_processes != started", "False", tests("alone", "what_was_started")),
    Fault(PROCESSES, "kind != DistributedType.NO and", "False and", tests("alone", "what_was_started")),
    Fault(PROCESSES, 'if mixed_precision == "fp16" and', "if False and", tests("alone", "fp16")),
    Fault(PROCESSES, "int(n) > 1", "int(n) > 0", tests("alone", "torchrun_started")),
    Fault(RUNS, "    if free < size:", "    if False:", tests("alone", "without_room")),
    Fault(RUNS, "2 * 5 * weights - there", "5 * weights - there", tests("alone", "without_room")),
    Fault(RUNS, "2 * 5 * weights - there", "2 * 5 * weights", tests("alone", "without_room")),
    Fault(CLI, 'environ.get("LOCAL_RANK", "0") == "0"', 'environ.get("LOCAL_RANK", "0")', tests("alone", "one_speaks")),
    Fault(RUN_LOCK, "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass", tests("alone", "lock_keeps")),
    Fault(RUN_LOCK, "fcntl.LOCK_EX", "fcntl.LOCK_SH", tests("alone", "lock_keeps")),
    Fault(TRAIN, "self.lock = lock(self.out)", "self.lock = open('/dev/null')", tests("alone", "a_second_run")),
    Fault(
        TRAIN, "with self.lock, self.writer, processes", "with self.writer, processes", tests("alone", "a_second_run")
    ),
    Fault(TRAIN, "self.lock.close()\n            raise", "raise", tests("alone", "cannot_be_made")),
    Fault(TRAIN, "if fresh:", "if False:", tests("alone", "fresh")),
    Fault(TRAIN, "self.remove_files(fresh, state)", "", tests("train", "fresh")),
    Fault(CLI, "console, fresh=fresh)", "console)", tests("cli", "fresh")),
    Fault(CLI, "FloatingPointError, OSError)", "FloatingPointError)", tests("alone", "full_disk")),
    Fault(CLI, "RunError, FloatingPointError", "FloatingPointError", tests("alone", "cannot_be_written")),
    Fault(CLI, "RunError, FloatingPointError", "RunError", tests("cli", "not_finite")),
    Fault(CHECKPOINT, "str(path)) from error", "None) from error", tests("checkpoint", "which_file")),
    Fault(MAIN, "except ModuleNotFoundError as error:", "except KeyError as error:", tests("alone", "missing_extra")),
    Fault(MAIN, "| sys.stdlib_module_names", "", tests("alone", "no_extra_brings")),
    # several processes
    Fault(TRAIN, "set_requires_gradient_sync(last)", "set_requires_gradient_sync(False)", tests("processes", "fsdp2")),
    Fault(TRAIN, "nullcontext() if last else self", "self", tests("processes", "ddp")),
    Fault(TRAIN, "processes.total(len(asked), self.accelerator.device)", "len(asked)", tests("processes", "sigterm")),
    Fault(TRAIN, "if train.micro_batch is None:", "if False:", tests("processes", "sigterm")),
    Fault(TRAIN, "for part in (model, self.averaged):", "for part in (model,):", tests("processes", "fsdp2")),
    Fault(TRAIN, "                    if not due:", "                    if due:", tests("processes", "sigterm")),
    Fault(TRAIN, "        if not processes.is_main():\n", "        if False:\n", tests("processes", "fsdp2")),
    Fault(TRAIN, "shards.check(self.out", "(lambda *of: None)(self.out", tests("processes", "sigterm")),
    Fault(SHARDS, "if path.name != kept:", "if False:", tests("processes", "sigterm")),
    Fault(SHARDS, "if path.name != kept:", "if True:", tests("processes", "sigterm")),
    Fault(SHARDS, " and path.name.removeprefix(PREFIX).isdigit()", "", tests("processes", "sigterm")),
    Fault(SHARDS, "raise OSError(cause.errno", "raise RuntimeError(cause.errno", tests("processes", "the_shard_of")),
    Fault(
        TRAIN,
        "losses).mean().item(), device) / processes.count()",
        "losses).mean().item(), device)",
        tests("processes", "ddp"),
    ),
    Fault(PROCESSES, "        dist.all_reduce(tensor)", "        pass", tests("processes", "agree")),
    Fault(PROCESSES, "        dist.broadcast_object_list(values)", "        pass", tests("processes", "agree")),
    Fault(PROCESSES, "failed[0] == rank() and own is not None", "own is not None", tests("processes", "agree")),
    Fault(EVALUATE, "if index < len(calls):", "if True:", tests("processes", "ddp")),
    Fault(
        EVALUATE,
        "math.ceil(len(calls) / processes.count())",
        "len(calls) // processes.count()",
        tests("processes", "ddp"),
    ),
    Fault(CLI, "console.quiet = not processes.is_main()", "console.quiet = False", tests("processes", "of_the_page")),
    Fault(CLI, "            if main:\n", "            if True:\n", tests("processes", "of_the_page")),
    Fault(CHECKPOINT, "        self.wait()\n        self.job =", "        self.job =", tests("checkpoint", "a_writer")),
    Fault(CHECKPOINT, "            job.result()", "            pass", tests("checkpoint", "a_writer")),
    Fault(CHECKPOINT, "self.thread.shutdown()", "pass", tests("checkpoint", "a_writer")),
    Fault(CHECKPOINT, "self.job = self.thread.submit(job, *args)", "job(*args)", tests("checkpoint", "a_writer")),
    # evaluation
    Fault(EVALUATE, "    model.eval()\n", "", tests("evaluate", "dropout_is_off")),
    Fault(EVALUATE, "derive(config.seed, start, r)", "derive(config.seed, start)", tests("evaluate", "every_call")),
    Fault(EVALUATE, "derive(config.seed, start, r)", "derive(config.seed, r)", tests("evaluate", "every_call")),
    Fault(EVALUATE, "model.reconstruction(x, seed=seed", "model.reconstruction(x, seed=0", tests("evaluate", "call")),
    Fault(
        EVALUATE,
        "spread_times(len(data), generator)[:, None]",
        "torch.rand(1, generator=generator).expand(len(data), 1)",
        tests("evaluate", "over_the_examples"),
    ),
    Fault(NN("base"), "t[torch.randperm(count, generator=generator)]", "t", tests("evaluate", "over_the_examples")),
    Fault(NN("base"), ".clamp(max=n_steps - 1)", "", tests("evaluate", "round")),
    Fault(EVALUATE, "(messages + reconstruction).std()", "messages.std()", tests("evaluate", "is_the_mean")),
    Fault(EVALUATE, "/ math.sqrt(len(data))", "", tests("evaluate", "is_the_mean")),
    Fault(EVALUATE, " / config.repeats\n        if", "\n        if", tests("evaluate", "is_the_mean")),
    Fault(
        CLI, "evaluate(model, data.test,", "evaluate(model, data.validation,", tests("cli", "says_what_training_said")
    ),
    # data, files and settings
    Fault(SPLITS, "torch.cat([train, validation])[:, None], test", "train[:, None], test", tests("data", "unigram")),
    Fault(
        SPLITS, "torch.cat([train, validation]).flatten(1), test", "train.flatten(1), test", tests("data", "factorised")
    ),
    Fault(DATA, "    refuse_unread(config.data)\n", "", tests("configs", "before_training")),
    Fault(SHIPPED, "(s > 8)", "(s >= 8)", tests("data", "binary")),
    Fault(SPLITS, "min(len(validation), len(test))", "len(train)", tests("data", "longer_than_a_split")),
    Fault(CHECKPOINT, "        os.fsync(number)", "        pass", tests("checkpoint", "on_the_disk")),
    Fault(CHECKPOINT, "            os.fsync(file.fileno())\n", "", tests("checkpoint", "on_the_disk")),
    Fault(CHECKPOINT, "{tuple(tensors[name].shape)}", "", tests("checkpoint", "names_or_shape")),
    Fault(CHECKPOINT, 'f"{name} {', 'f"{', tests("checkpoint", "names_or_shape")),
    Fault(CHECKPOINT, "hashlib.sha256(text.encode())", "hashlib.sha256()", tests("checkpoint", "flipped_bit")),
    Fault(CONFIGS, 'key == "seed"', 'path == "train.seed"', tests("configs", "bad_override")),
    Fault(CONFIGS, "not value > 0", "not value >= 0", tests("configs", "bad_override")),
    Fault(CONFIGS, "0 <= value < 1", "0 <= value <= 1", tests("configs", "bad_override")),
    Fault(CONFIGS, 'mixed_precision == "False"', 'mixed_precision == "no"', tests("configs", "overrides_replace")),
    # model and sampler
    Fault(NN("classes"), "quadrature=32", "quadrature=8", tests("model", "summed_up")),
    Fault(NN("classes"), '"n_samples": 10', '"n_samples": 5', tests("model", "summed_up")),
    Fault(NN("classes"), '"seed": seed}', '"seed": 0}', tests("model", "summed_up")),
    Fault(NN("classes"), '{"quadrature": 32}', '{"quadrature": 4}', tests("tables", "other_receiver")),
    Fault(TABLES, 'model.using("factorised")', 'model.using("joint")', tests("tables", "bound_for_its")),
    Fault(TABLES, "n_steps=n_steps", "n_steps=None", tests("tables", "bound_for_its")),
    Fault(TABLES, "distances.fill_diagonal_(math.inf)", "", tests("tables", "told_apart")),
    Fault(TABLES, " / nearest.sum(1)", "", tests("tables", "same_distance")),
    Fault(TABLES, "dimensions * math.log(2)", "dimensions", tests("tables", "paper_stands")),
    Fault(TABLES, "differing=bool(data.symbols)", "differing=False", tests("tables", "only_text")),
    Fault(TABLES, "p=0 if differing else 2", "p=2", tests("tables", "characters_that_differ")),
    # byte pairs
    Fault(BYTES, "learn(parts[0], ", "learn(whole, ", tests("bytepairs", "learned_of_what_is_trained_on")),
    Fault(BYTES, "if missing := ", "if False and ", tests("bytepairs", "no_tokenizer")),
    Fault(
        NN("vocabulary"),
        "self.embedding.weight * self.share",
        "self.embedding.weight",
        tests("bytepairs", "messages_and"),
    ),
    Fault(NN("vocabulary"), "self.head.bias.copy_(p.log())", "pass", tests("bytepairs", "messages_and")),
    Fault(
        NN("vocabulary"),
        '"flow_scale": scale, "flow',
        '"flow_scale": 0 * scale, "flow',
        tests("bytepairs", "messages_and"),
    ),
    Fault(RUNS, 'if state.get("tokenizer") != self.data.tokenizer:', "if False:", tests("bytepairs", "other_tokens")),
    Fault(TRAIN, "if train.compiler is not None", "if False", tests("steps", "network_is_compiled")),
    Fault(CLI, 'with_suffix(".npy")', 'with_suffix(".bin")', tests("cli", "written_as_numbers")),
    Fault(NN("base"), "n_steps, part(seed, 1)", "n_steps, part(seed, 0)", tests("model", "drawn_for_the_loss")),
    Fault(
        NN("base"),
        "t = torch.ones(len(x), device=x.device)",
        "t = torch.full((len(x),), 0.9)",
        tests("model", "reconstruction_counts"),
    ),
    Fault(NN("normal"), ", num_bins=self.num_bins, **self", ", **self", tests("model", "reconstruction_counts")),
    Fault(MODEL, "1 - 2 * theta[..., None]", "2 * theta[..., None] - 1", tests("model", "the_right_way_round")),
    Fault(NN("classes"), "(output > 0).long()", "(output < 0).long()", tests("model", "right_way")),
    Fault(
        NN("base"),
        "t = torch.ones(len(theta), device",
        "t = torch.zeros(len(theta), device",
        tests("model", "sampling_follows"),
    ),
    Fault(SAMPLERS, "    model.eval()\n    try", "    try", f"{NN_TESTS} -k without_dropout"),
    Fault(SAMPLERS, "module.training = training", "pass", f"{NN_TESTS} -k without_dropout"),
    Fault(SAMPLERS, "fold_in(seed, steps)", "fold_in(seed, 0 * steps)", tests("sample", "by_themselves")),
    Fault(SAMPLERS, "((steps.double() - 1) / n_steps)", "(steps.double() / n_steps)", tests("sample", "by_themselves")),
    Fault(
        SAMPLERS, "alpha(steps.double(), n_steps)", "alpha(steps.double(), n_steps + 1)", tests("sample", "watching")
    ),
    Fault(SAMPLERS, "tuple(value.clone() for value", "tuple(value for value", tests("sample", "by_themselves")),
    Fault(NN("base"), "part(seed, 2)), n_steps)", "part(seed, 2)))", f"{NN_TESTS} -k times_that_are_not"),
    Fault(
        NN("base"),
        "reduction=reduction, mask=mask)\n        return",
        "reduction=reduction)\n        return",
        f"{NN_TESTS} -k mask",
    ),
    Fault(
        NN("base"),
        "drawn_seed() if seed is None else seed\n        if",
        "1 if seed is None else seed\n        if",
        f"{NN_TESTS} -k seed",
    ),
    Fault(
        NN("base"),
        "if (parameter is None) == (schedule is None):",
        "if parameter is None and schedule is None:",
        f"{NN_TESTS} -k takes_the_place",
    ),
    # the published code
    Fault(
        PATCH,
        "(1 - binary.flow_sample(flat, times, beta_1=beta_1(self)).view_as(x),)",
        "(binary.flow_sample(flat, times, beta_1=beta_1(self)).view_as(x),)",
        f"{PATCHED} -k class_0",
    ),
    Fault(PATCH, "bool((t == t[:, :1]).all())", "True", f"{PATCHED} -k equal_in_a_row"),
    Fault(PATCH, "0.7 if sixteen else 1", "1.0 if sixteen else 1", f"{PATCHED} -k losses_are_theirs"),
    Fault(PATCH, "drawn.float() if isinstance(model, nn.Binary) else drawn", "drawn", f"{PATCHED} -k would_show_it"),
    Fault(PATCH, "1 - 2 * theta[..., None]", "theta[..., None]", f"{PATCHED} -k would_show_it"),
    Fault(
        PATCH,
        "if not loss.noise_pred or loss.min_loss_variance > 0:",
        "if not loss.noise_pred:",
        f"{PATCHED} -k stays_theirs",
    ),
    Fault(PATCHES("__init__"), "setattr(*self.originals.pop())", "self.originals.pop()", f"{PATCHED} -k undoes"),
    Fault(PATCH, "(-inner.clip_range, inner.clip_range)", "None", f"{PATCHED} -k losses_are_theirs"),
    Fault(SOLVER, 'or options.get("addi_step")', "", f"{SOLVED} -k run_is_theirs"),
    Fault(SOLVER, 'how["choose"] = "sample"', "pass", f"{SOLVED} -k run_is_theirs"),
    Fault(SOLVER, "self.times[step - 1])", "self.times[0])", f"{SOLVED} -k run_is_theirs"),
    Fault(SOLVER, "(t, t_next), middle, theta, **how)", "(t, t_next), t, theta, **how)", f"{SOLVED} -k run_is_theirs"),
    # networks
    Fault(NETWORK("layers"), "mixed.transpose(-1, -2).reshape", "mixed.reshape", tests("networks", "unet_attends")),
    Fault(
        NETWORK("transformer"),
        "transpose(1, 2).flatten(2)",
        "flatten(2).unflatten(1, h.shape[1:])",
        tests("networks", "transformer_attends"),
    ),
    Fault(
        NETWORK("transformer"),
        "h = h + self.dropout(self.out(mixed))",
        "h = self.dropout(self.out(mixed))",
        tests("networks", "transformer_attends"),
    ),
    Fault(NETWORK("layers"), "angles.cos()", "angles.sin()", tests("networks", "circles")),
    Fault(NETWORK("layers"), "2 * math.pi * torch", "torch", tests("networks", "circles")),
    Fault(NETWORK("transformer"), "(1 + self.own(time))", "self.own(time)", tests("networks", "fresh_transformer")),
    Fault(
        NETWORK("unet"),
        "self.conv_out(self.dropout(residual))",
        "self.conv_out(residual)",
        tests("networks", "dropout"),
    ),
    # what is measured, and what the pages say of it
    Fault("benchmarks/heap.py", "for limit in (TRIM, MAP):", "for limit in ():", f"{HEAP} -k keeps"),
    Fault("benchmarks/measure.py", "    heap.warm()\n", "", f"{HEAP} -k says_so"),
    Fault("benchmarks/base.py", "    heap.warm()  #", "    #", f"{HEAP} -k another_revision"),
    Fault("benchmarks/training.py", "measure.begun(device)", "measure.machine(device)", f"{HEAP} -k training"),
    Fault("benchmarks/clients.py", "(row.network_ms + row", "(row", "tests/benchmarks/test_clients.py -k table"),
    Fault(
        "benchmarks/figures.py", "text.replace(before, after)", "text", "tests/benchmarks/test_figures.py -k up_to_date"
    ),
    Fault(  # a digit more before the first time of a row, whatever was measured
        "README.md",
        "levels, continuous time | ",
        "levels, continuous time | 1",
        "tests/benchmarks/test_figures.py -k README",
    ),
]
