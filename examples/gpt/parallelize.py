"""The GPT under PyTorch's own tensor parallel, fully_shard and pipeline, for any layout."""

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn import functional

import dynatrain

from .clip import AXES
from .model import GPT, GPTConfig


def build_model(config: GPTConfig, world: dynatrain.World) -> GPT:
    """Build this rank's stage and cut it over the world. Runs no collective."""
    layers = world.layers(config.num_layers)[0]
    model = GPT(config, layers, is_first=world.is_first_stage, is_last=world.is_last_stage)
    tp_mesh = world.submesh("tp")
    if tp_mesh is not None:
        apply_tensor_parallel(model, tp_mesh)
    if world.enabled("dp_shard"):  # with dp_replicate too, the mesh is 2-D and this is hybrid FSDP
        mesh = world.submesh("dp_replicate", "dp_shard")
        reshard = not world.enabled("pp")  # a pipeline would gather again for every microbatch
        for block in model.layers.values():
            fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
        fully_shard(model, mesh=mesh, reshard_after_forward=reshard)
    return model


def apply_tensor_parallel(model: GPT, mesh: DeviceMesh) -> None:
    """Cut attention by heads, the feed-forward by width and the vocabulary by bytes."""
    # One conversion at the door of a sub-layer: one all-reduce of its input's gradient, not three.
    # src_data_rank=None: every rank cuts what it has, so nothing is sent.
    enter = Replicate()
    block_plan: dict[str, ParallelStyle] = {
        "attention": PrepareModuleInput(
            input_layouts=(enter, None, None), desired_input_layouts=(enter, None, None)
        ),
        "attention.wq": ColwiseParallel(),
        "attention.wk": ColwiseParallel(),
        "attention.wv": ColwiseParallel(),
        "attention.wo": RowwiseParallel(),
        "ffn": PrepareModuleInput(input_layouts=(enter,), desired_input_layouts=(enter,)),
        "ffn.w1": ColwiseParallel(),
        "ffn.w3": ColwiseParallel(),
        "ffn.w2": RowwiseParallel(),
    }
    for block in model.layers.values():
        parallelize_module(block, mesh, block_plan, src_data_rank=None)
    ends: dict[str, ParallelStyle] = {}
    if model.is_first or model.is_last:
        ends["tok_embeddings"] = RowwiseParallel(input_layouts=Replicate())
    if model.is_last:
        ends["output"] = ColwiseParallel(output_layouts=Replicate())
    if ends:
        parallelize_module(model, mesh, ends, src_data_rank=None)
        model.tie()  # parallelize_module gave each of the two a weight of its own


def build_pipeline(
    model: GPT, world: dynatrain.World, global_batch_size: int
) -> Schedule1F1B | None:
    """Return the schedule of this rank's stage; None without a pipeline."""
    num_stages = world.size("pp")
    if num_stages == 1:
        return None
    batch_size = global_batch_size // data_parallel_size(world)
    num_microbatches = next(n for n in range(num_stages, batch_size + 1) if batch_size % n == 0)
    config = model.config

    def example(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        shape = (batch_size // num_microbatches, config.seq_len, *shape)
        floating = dtype.is_floating_point
        return torch.empty(shape, dtype=dtype, device="meta", requires_grad=floating)

    tokens = example(dtype=torch.int64)
    hidden = example(config.dim)
    logits = example(config.vocab_size)
    stage = PipelineStage(
        model,
        stage_index=world.coordinate("pp"),
        num_stages=num_stages,
        device=world.device,
        input_args=tokens if model.is_first else hidden,
        output_args=logits if model.is_last else hidden,
        group=world.group("pp"),
    )

    def share_of_mean(output: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(output, target) / num_microbatches

    return Schedule1F1B(stage, num_microbatches, loss_fn=share_of_mean, scale_grads=False)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of every token in the batch."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def pipeline_step(schedule: Schedule1F1B, model: GPT, tokens: Tensor, targets: Tensor) -> Tensor:
    """Run forward and backward of a batch; the loss is 0 on all but the last stage."""
    losses: list[Tensor] = []
    inputs = (tokens,) if model.is_first else ()
    target = targets if model.is_last else None
    schedule.step(*inputs, target=target, losses=losses, return_outputs=False)
    return torch.stack(losses).sum() if losses else torch.zeros((), device=tokens.device)


def mean_loss(loss: Tensor, world: dynatrain.World) -> float:
    """Mean over the global batch of the losses that each last stage has for its own part."""
    if world.world_size == 1:
        return float(loss)
    share = loss / (data_parallel_size(world) * world.size("tp"))
    dist.all_reduce(share, group=world.group("pp", *AXES))
    return float(share)


def data_parallel_size(world: dynatrain.World) -> int:
    """Into how many parts the global batch is cut."""
    return world.size("dp_replicate") * world.size("dp_shard")


@torch.no_grad()
def finish_gradients(model: GPT, world: dynatrain.World) -> None:
    """Exchange the gradients that no wrapper exchanges: plain replicas' and the tied weight's."""
    if model.is_first or model.is_last:
        tied = model.tok_embeddings.weight
        if isinstance(
            tied.grad, DTensor
        ):  # a lookup under TP leaves it whole, not cut like the weight
            tied.grad = tied.grad.redistribute(placements=tied.placements)
    if world.enabled("dp_replicate") and not world.enabled("dp_shard"):
        for parameter in model.parameters():
            gradient = local(parameter.grad)
            dist.all_reduce(gradient, group=world.group("dp_replicate"))
            gradient.div_(world.size("dp_replicate"))
    if world.enabled("pp") and (model.is_first or model.is_last):
        add_peer_gradient(model.tok_embeddings.weight, world)


def add_peer_gradient(tied: Tensor, world: dynatrain.World) -> None:
    """Add the gradient that the other end of the pipeline has for its copy of the tied weight."""
    group = world.group("pp")
    assert group is not None
    last = world.size("pp") - 1
    peer = dist.get_global_rank(group, 0 if world.coordinate("pp") == last else last)
    mine = local(tied.grad).contiguous()
    other = torch.empty_like(mine)
    exchange = [
        dist.P2POp(dist.isend, mine, peer, group),
        dist.P2POp(dist.irecv, other, peer, group),
    ]
    for work in dist.batch_isend_irecv(exchange):
        work.wait()
    local(tied.grad).add_(other)


def local(tensor: Tensor | None) -> Tensor:
    """This rank's part of a tensor that may be a DTensor."""
    assert tensor is not None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
