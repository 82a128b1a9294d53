"""The grouped module, chains of it, and the choice of a backend."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from marl.errors import MarlError
from marl.sparse import GroupedLinear, Layout, chain
from marl.sparse.backends import choose, native

if not native.available():
    pytest.skip("the native kernels need a C++ compiler", allow_module_level=True)


def layer(inputs: int, outputs: int, groups: int, seed: int, **options: bool) -> GroupedLinear:
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randint(groups, (n,), generator=generator) for n in (inputs, outputs)]
    layout = Layout.of(*draw, groups)
    packed = torch.randn(layout.nnz, generator=generator)
    return GroupedLinear(packed, torch.randn(outputs, generator=generator), layout, **options)


def masked(module: GroupedLinear, x: Tensor) -> Tensor:
    y = F.linear(x, module.layout.unpack(module.packed), module.bias)
    return torch.relu(y) if module.options["relu"] else y


@pytest.fixture(autouse=True)
def _no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(choose, "_file", lambda: tmp_path / "choices.json")
    choose._known.cache_clear()


@pytest.mark.parametrize("chosen", ["native", "dense"])
def test_resting_weights_are_read_again_when_they_change(chosen: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choose, "_measure", lambda candidates: chosen)
    module = layer(24, 40, 3, seed=0, relu=True).eval()
    x = torch.randn(5, 24)
    with torch.no_grad():
        for _ in range(2):  # the first call chooses
            torch.testing.assert_close(module(x), masked(module, x))
        module.packed.mul_(2.0)
        torch.testing.assert_close(module(x), masked(module, x))
        module.bias.sub_(1.0)
        torch.testing.assert_close(module(x), masked(module, x))
        module.packed.data = torch.randn(module.layout.nnz)
        torch.testing.assert_close(module(x), masked(module, x))
        module.load_state_dict(layer(24, 40, 3, seed=0).state_dict())
        torch.testing.assert_close(module(x), masked(module, x))


def test_train_mode_reads_what_torch_does_not_count():
    module = layer(24, 40, 3, seed=0).eval().train()
    x = torch.randn(5, 24)
    with torch.no_grad():
        module(x)
        module.packed.data.mul_(3.0)
        torch.testing.assert_close(module(x), masked(module, x))


def test_eval_mode_keeps_gradients_shapes_and_copies():
    module = layer(24, 40, 3, seed=0).eval()
    x = torch.randn(2, 3, 24, requires_grad=True)
    y = module(x)
    torch.testing.assert_close(y, masked(module, x))
    y.sum().backward()
    assert x.grad is not None
    assert module.packed.grad is not None
    with torch.no_grad():
        assert module(x).shape == (2, 3, 40)
        assert module(x[:0]).shape == (0, 3, 40)
        torch.testing.assert_close(copy.deepcopy(module)(x), y)
    assert module(x.double()[..., :0, :].float()).shape == (2, 0, 40)


def test_bad_inputs_are_refused():
    module = layer(24, 40, 3, seed=0).eval()
    with torch.no_grad(), pytest.raises(RuntimeError, match="wanted 24 features"):
        module(torch.randn(5, 23))
    x = torch.randn(5, 24, requires_grad=True)
    y = module(x).square().sum()
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(y, x, create_graph=True)


@pytest.mark.parametrize("mode", [True, False])
def test_a_chain_equals_its_layers_one_by_one(mode: bool):
    layers = [layer(20, 33, 4, 0, relu=True), layer(33, 17, 3, 1, relu=True), layer(17, 9, 2, 2)]
    x = torch.randn(6, 20)
    wanted = x
    for module in layers:
        wanted = masked(module, wanted)
    network = chain(layers).train(mode)
    torch.testing.assert_close(network(x), wanted)
    with torch.no_grad():
        torch.testing.assert_close(network(x), wanted)
    permutes = [(module.options["gather"], module.options["scatter"]) for module in network]
    assert permutes == [(True, False), (True, False), (True, True)]


def test_a_chain_of_equal_groups_permutes_at_its_ends_only():
    first = layer(20, 33, 4, 0, relu=True)
    group = first.layout.group_out_O
    layout = Layout.of(group, group, 4)
    second = GroupedLinear(torch.randn(layout.nnz), None, layout)
    x = torch.randn(6, 20)
    network = chain([first, second])
    torch.testing.assert_close(network(x), masked(second, masked(first, x)))
    assert not network[1].options["gather"]


def test_sums_equal_those_of_the_layout():
    module = layer(24, 40, 3, seed=0)
    a, b = torch.randn(2, module.layout.nnz)
    for own, wanted in zip(native.sums(a, b, module.layout), module.layout.sums(a * b), strict=True):
        torch.testing.assert_close(own, wanted)


@pytest.mark.parametrize("level", native.LEVELS)
def test_every_instruction_set_and_thread_count(level: str):
    """Sizes around the tiles' edges, batches that cut rows and batches that cut panels."""
    best = torch.backends.cpu.get_cpu_capability()
    order = ["DEFAULT", "AVX2", "AVX512"]
    if best not in order or order.index(level) > order.index(best):
        pytest.skip(f"this machine has no {level}")
    own, before = native.loaded(), torch.get_num_threads()
    own.use(level)
    try:
        for threads, (inputs, outputs, groups), batch in itertools.product(
            (1, 2), ((700, 300, 2), (530, 64, 1), (90, 1200, 9), (100, 133, 20)), (1, 3, 30, 200)
        ):
            torch.set_num_threads(threads)
            for gather, scatter in ((True, True), (False, False)):
                module = layer(inputs, outputs, groups, seed=batch)
                module.options |= {"gather": gather, "scatter": scatter}
                module.backend = "native"
                module.eval()
                x = torch.randn(batch, inputs, requires_grad=True)
                given = x if gather else x[:, module.layout.order_in_I]
                wanted = masked(module, x)
                dy = torch.randn(wanted.shape)
                gradients = torch.autograd.grad(wanted, [x, module.packed, module.bias], dy)
                order_O = module.layout.order_out_O if not scatter else torch.arange(outputs)
                y = module(given)
                own_gradients = torch.autograd.grad(y, [x, module.packed, module.bias], dy[:, order_O])
                with torch.no_grad():
                    torch.testing.assert_close(module(given), wanted[:, order_O], rtol=1e-4, atol=1e-3)
                torch.testing.assert_close(y, wanted[:, order_O], rtol=1e-4, atol=1e-3)
                for a, b in zip(own_gradients, gradients, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    finally:
        torch.set_num_threads(before)
        own.use(best)


def test_the_choice_is_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch):
    clock = {"now": 0.0}  # in place of the machine's, on which others may run

    def form(seconds: float) -> Tensor:
        clock["now"] += seconds
        return torch.zeros(())

    monkeypatch.setattr(choose, "time", SimpleNamespace(perf_counter=lambda: clock["now"]))
    forms = {"slow": lambda: form(3e-3), "fast": lambda: form(1e-4)}
    assert choose.fastest("test", forms) == "fast"
    monkeypatch.setattr(choose, "_measure", lambda _: pytest.fail("measured again"))
    assert choose.fastest("test", forms) == "fast"
    choose._known.cache_clear()  # as a new process
    assert choose.fastest("test", forms) == "fast"
    choose.forget()
    with pytest.raises(pytest.fail.Exception):
        choose.fastest("test", forms)


@pytest.mark.filterwarnings("ignore")  # of torch's own tracers
def test_a_tracer_sees_one_product_per_group():
    module = layer(20, 33, 4, 0, relu=True)
    x = torch.randn(5, 20)
    wanted = masked(module, x)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    torch.testing.assert_close(program.module()(x[:3]), wanted[:3])
    names = [str(node.target) for node in program.graph.nodes]
    used = sum(min(pair) > 0 for pair in zip(module.layout.sizes_in, module.layout.sizes_out, strict=True))
    assert sum("matmul" in name for name in names) == used
    torch.testing.assert_close(module(x), wanted)  # nothing of the tracer has stayed
    compiled = torch.compile(module, backend="eager", dynamic=False)
    torch.testing.assert_close(compiled(x), wanted)


def test_native_cannot_be_traced_and_says_so():
    module = layer(20, 33, 4, 0)
    module.backend = "native"
    with pytest.raises(MarlError, match=r"cannot be traced by torch.compile or torch.export: give backend="):
        torch.export.export(module, (torch.randn(5, 20),))
    plan = native.loaded().plan(module.layout)
    with FakeTensorMode() as mode, pytest.raises(Exception) as caught:  # noqa: PT011 - torch's own
        native.loaded().module.linear(
            mode.from_tensor(torch.randn(5, 20)), module.packed.detach(), None, plan, 0
        )
    assert not isinstance(caught.value, SystemError)
    eval_mode = layer(20, 33, 4, 0).eval()
    assert eval_mode(torch.randn(5, 20).as_subclass(Own)).shape == (5, 33)  # not by the kernels' fast path


class Own(torch.Tensor):
    """Some class of tensors."""
